"""Small trained models that come with the package: each a finished run with its model card (README.md)."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
SHIPPED = {
    "flowers": "photographs of five kinds of flowers, 96 px and up",
    "stdlib": "the source of Python's standard library",
}


def shipped(name: str) -> Path:
    """The folder of a shipped run, for tost.training.load_run and every command. Raises ValueError for other names."""
    if name not in SHIPPED:
        raise ValueError(f"no shipped model {name!r}; there are {', '.join(SHIPPED)}")
    return HERE / name


def run_or_shipped(run: str | os.PathLike[str]) -> Path:
    """`run` as a path, or the shipped run of that name where there is no such path."""
    path = Path(run)
    return HERE / str(run) if str(run) in SHIPPED and not path.exists() else path
