"""python -m examples.video CLIP [--minutes 60] [--help]."""

import sys

from tost.training.parsing import one_line, parse


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors of the user's are one line and the exit code 2."""
    from examples.video.stream import DESCRIPTION, stream

    try:
        given = parse(stream, sys.argv[1:] if arguments is None else arguments, "python -m examples.video", DESCRIPTION)
        return stream(**given)
    except (ValueError, ImportError, OSError) as error:
        print(f"examples.video: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("examples.video: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
