"""Pictures to begin with: those that installed packages bring along. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tost.app.limits import read_picture
from tost.extras import require

# package, file in it, name
FILES = (
    ("sklearn", "datasets/images/flower.jpg", "flower"),
    ("skimage", "data/chelsea.png", "cat"),
    ("skimage", "data/coffee.png", "coffee"),
    ("skimage", "data/astronaut.png", "astronaut"),
    ("sklearn", "datasets/images/china.jpg", "temple"),
    ("skimage", "data/rocket.jpg", "rocket"),
)
DIGITS = [str(i) for i in range(10)]
DIGITS_SHOWN = 6


def photographs(classes: Sequence[str] = ()) -> list[tuple[Any, str]]:
    """(PIL image in RGB, name) of every picture that is here; for a model of digits, scans of digits come first."""
    found = _digits() if list(classes) == DIGITS and find_spec("sklearn") else []
    for package, file, name in FILES:
        spec = find_spec(package)
        path = Path(spec.origin or "").parent / file if spec else None
        if path is not None and path.is_file():
            found.append((read_picture(path), name))
    return found


def _digits() -> list[tuple[Any, str]]:
    """The first scan of each of a few digits (scikit-learn's, which came with the package)."""
    pil = require("PIL.Image", extra="app")
    bunch = require("sklearn.datasets", extra="training").load_digits()
    scans = [bunch.images[bunch.target == digit][0] for digit in range(DIGITS_SHOWN)]
    pictures = [pil.fromarray((scan * (255 / 16)).round().astype("uint8")).convert("RGB") for scan in scans]
    return [(picture, f"a {digit}") for digit, picture in enumerate(pictures)]
