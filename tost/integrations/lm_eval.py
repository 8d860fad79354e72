"""`lm_eval` with our models in it: python -m tost.integrations.lm_eval --model hf --model_args pretrained=RUN ...

The harness loads a model through transformers' Auto classes; importing this registers ours with them.
"""

from __future__ import annotations

from tost.extras import require

require("lm_eval", extra="harness")

import tost.models.language  # noqa: E402, F401 (registers the Auto classes)


def main() -> None:
    """The harness's own command, its arguments from sys.argv."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
