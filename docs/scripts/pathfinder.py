"""Draws docs/images/pathfinder.png, generated images of both sizes: `python docs/scripts/pathfinder.py`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tost.data.sources import SequenceOptions, load_sequences
from tost.files import atomic_write

TILE, GAP = 256, 8


def sheet() -> np.ndarray:
    """Two images of 32 x 32 and two of 128 x 128 a row; above the circles are connected, below they are not."""
    whole = np.full((2 * TILE + GAP, 4 * TILE + 3 * GAP), 128, dtype=np.uint8)
    for column, source in enumerate(("pathfinder", "pathfinder", "pathx", "pathx")):
        images = load_sequences(SequenceOptions(source, samples=8, evaluated=2)).train
        for row in range(2):
            image = images.image(2 * (column % 2) + 1 - row)
            scale = TILE // len(image)
            top, left = row * (TILE + GAP), column * (TILE + GAP)
            whole[top : top + TILE, left : left + TILE] = np.kron(image, np.ones((scale, scale), dtype=np.uint8))
    return whole


def main() -> None:
    """Write the picture."""
    drawn = io.BytesIO()
    Image.fromarray(sheet()).save(drawn, "PNG", optimize=True)
    with atomic_write(Path(__file__).parent.parent / "images" / "pathfinder.png") as file:
        file.write(drawn.getvalue())


if __name__ == "__main__":
    main()
