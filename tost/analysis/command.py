"""`tost analyze`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tost.extras import require
from tost.shipped import SHIPPED, run_or_shipped
from tost.training.parsing import parse_with

DESCRIPTION = """Look inside a finished run, of images or of text: every figure of the paper for it, and one report.

Images: compression rate of every layer on training and held-out images, memberships over the picture and as
clusterings, where [CLS] looks, how much the heads' subspaces overlap, singular values of the features, how many heads
share a token and how that changes with resolution, temperature and LayerScale over training.
Text:   the same but for pictures, memberships painted on the tokens, and heads over the position in long sequences.

Each figure becomes a PNG, an SVG and a CSV with the numbers behind it; report.html holds all of them in one file.
With --images and --masks it also scores how well memberships, attention and k-means segment: every second photograph
chooses layer, head and level, the others are scored. docs/analysis.md says how to read each figure.
"""
EXAMPLES = """examples:
  tost analyze runs/vision-digits
  tost analyze runs/lm-stdlib --length 8192
  tost analyze flowers --images photographs --out flowers-analysis
  tost analyze runs/flowers --images pets/images --masks pets/trimaps --ignore 3 --baseline runs/flowers-softmax
"""
OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    ("out", str, None, "folder of the report (default: RUN/analysis, of a shipped model runs/NAME-analysis)"),
    ("samples", int, 500, "images, or rows of text, of each set at most; always the same ones"),
    ("data.path", str, None, "where the run's own images or text are, if not where its recipe says"),
    (
        "images",
        str,
        None,
        "images: a folder of photographs to draw maps over (and to measure, where the run's are gone)",
    ),
    ("masks", str, None, "images: a folder of masks named like the photographs; pixels are integer labels"),
    ("ignore", "labels", None, "labels of the masks that don't count, such as 3 or 0,255"),
    ("foreground", "labels", None, "labels that are the object (default: all but 0; without a 0, all but the largest)"),
    ("baseline", str, None, "images: a second finished run to score beside this one, such as its twin with softmax"),
    ("size", int, None, "images: work on photographs of the area of so large a square (default: the run's own size)"),
    ("length", int, None, "text: tokens of the long sequences (default: the model's positions, or 4096)"),
    ("batch_size", int, 32, "images, or rows of text, per forward pass"),
    ("device", str, None, "cpu, cuda, ... (default: cuda where there is one)"),
)


def default_folder(run: str) -> Path:
    """Beside the run's other files; of a shipped model, whose folder is the package's, under runs."""
    folder = run_or_shipped(run)
    return Path("runs") / f"{run}-analysis" if run in SHIPPED and folder != Path(run) else folder / "analysis"


def analyze(arguments: Sequence[str]) -> None:
    """Parse the command line, analyze, write the folder and say where it is."""
    given = parse_with(make_parser(), arguments)
    require("matplotlib", extra="analysis")
    from tost.analysis.inside import analyze as compute
    from tost.analysis.results import REPORT, check_writable
    from tost.training.runs import read_config

    run = run_or_shipped(given["run"])
    read_config(run)
    folder = Path(given["out"] or default_folder(given["run"]))
    check_writable(folder)
    path = given["data.path"]
    options = ("samples", "images", "masks", "baseline", "size", "length", "batch_size", "device")
    found = compute(
        given["run"],
        data={"path": path} if path else None,
        ignore=labels(given["ignore"], "ignore"),
        foreground=labels(given["foreground"], "foreground"),
        **{name: given[name] for name in options},
    )
    files = found.write(folder)
    for note in found.notes:
        print(f"note     {note}")
    print(f"figures  {len(found.figures)} as PNG, SVG and CSV, {len(files)} files in {folder}")
    print(f"report   {(folder / REPORT).resolve()}")


def make_parser() -> Any:
    """The parser of the command line."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Keeps the lines of the description and the examples."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text

    parser = ArgumentParser(
        prog="tost analyze",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("run", help="folder of a finished run, or the name of a shipped one (flowers, stdlib)")
    for name, kind, default, told in OPTIONS:
        parser.add_argument(f"--{name}", type=str if kind == "labels" else kind, default=default, help=told)
    return parser


def labels(text: str | None, option: str) -> list[int]:
    """The labels in "3" or "0,255"; ValueError for anything else."""
    try:
        return [int(part) for part in (text or "").strip("[]").split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--{option}: expected labels such as 3 or 0,255, got {text!r}") from None
