"""`python -m tost` is `tost` (and what `accelerate launch -m tost` starts)."""

import sys

from tost.cli import main

if __name__ == "__main__":
    sys.exit(main())
