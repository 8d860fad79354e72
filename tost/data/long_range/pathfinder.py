"""Pathfinder (Linsley et al. 2018) with the settings of the Long Range Arena: are the two circles on one dashed path?

An image holds two long contours of dashes, short distractors and two circles. One circle is where a long contour
begins; the other is where the same contour ends (class 1) or the other one (class 0). Path-X is the same at 128 x 128.
Images are drawn when they are asked for: image i of a part depends on the seed, the part and i alone, and even i have
class 0, odd ones class 1.

Against the published script, positions are not rounded to pixels, dashes of all contours are equally bright, a contour
that gets stuck goes back a few dashes, and a circle is as far from other contours as two contours are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tost.data.sequences import SequenceSets
from tost.data.sources import SequenceOptions

CLASSES = ["apart", "connected"]
COUNTS = {"train": 160_000, "validation": 20_000, "test": 20_000}
CONTOURS = {"easy": 6, "intermediate": 9, "hard": 14}  # dashes of a long contour


@dataclass(frozen=True)
class Drawing:
    """Published settings of one size, lengths in pixels; `short` dashes of distractors in all, at most.

    length, thickness of a dash; half of the gap between two dashes is a margin, drawn from `margins` for every image.
    """

    side: int
    length: float
    thickness: float
    margins: tuple[float, ...]
    continuity: float
    contrast: float
    radius: float
    seed_distance: float
    short: int
    padding: float = 1.0

    def geometry(self, margin: float) -> tuple[float, ...]:
        """What tost.data.long_range.pathfinder_curves calls a geometry."""
        clear, room = 2 * margin + self.thickness, self.radius + 2 * margin + self.thickness / 2
        numbers = (self.side, self.padding, self.length, margin, clear, self.continuity, self.seed_distance, room)
        return tuple(float(number) for number in numbers)


DRAWINGS = {
    drawing.side: drawing
    for drawing in (
        Drawing(32, 2, 0.5, (1,), 1.0, 1.5, 1.5, 7, 20),
        Drawing(64, 5, 1.0, (1,), 1.8, 0.8, 2.5, 12, 22),
        Drawing(128, 5, 1.5, (2, 3), 1.8, 0.9, 3.0, 20, 35),
        Drawing(256, 5, 2.0, (3,), 1.8, 1.0, 5.0, 27, 30, padding=22.0),
    )
}


class Drawn(Dataset):
    """`count` images of one part, drawn when asked for."""

    def __init__(self, drawing: Drawing, contour: int, seed: int, part: str, count: int) -> None:
        self.drawing, self.contour, self.count = drawing, contour, count
        self.stream = (seed, drawing.side, contour, list(COUNTS).index(part))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return {"x": self.image(index).reshape(-1), "label": index % 2}

    def image(self, index: int) -> np.ndarray:
        """Image `index`: [side, side] uint8."""
        from tost.data.long_range import pathfinder_curves

        dashes, marks, _ = self.curves(index)
        image = np.zeros((self.drawing.side, self.drawing.side), dtype=np.uint8)
        drawing = self.drawing
        pathfinder_curves.draw(dashes, marks, drawing.thickness, drawing.contrast, drawing.radius, image)
        return image

    def curves(self, index: int) -> tuple[np.ndarray, tuple[float, ...], float]:
        """Image `index` as dashes [n, 4] (x0, y0, x1, y1), the centres of both circles (x, y, x, y) and its margin.

        The first dashes are those of the two long contours, taking turns.
        """
        from tost.data.long_range import chance, pathfinder_curves

        state = chance.start(*self.stream, index)
        margins = self.drawing.margins
        margin = margins[chance.below(state, len(margins))]
        short = self.contour // 3
        numbers = (self.contour, self.drawing.short // short, short)
        dashes = np.zeros((2 * self.contour + self.drawing.short + 1, 4))
        count = pathfinder_curves.curves(state, self.drawing.geometry(margin), numbers, dashes)
        if not count:
            raise ValueError(f"Pathfinder: no room for contours of {self.contour} dashes at {self.drawing}")
        marks = pathfinder_curves.circles(state, dashes, self.contour, index % 2)
        return dashes[:count], marks, margin


def load_pathfinder(options: SequenceOptions) -> SequenceSets:
    """Images generated from options.seed, or the released ones in the folder options.path, as rows of grey pixels.

    Raises ValueError for a size without published settings, and naming the file where a folder is not the released one.
    """
    side = options.size or {"pathfinder": 32, "pathx": 128}[options.source]
    name = options.name or "hard"
    if name not in CONTOURS:
        raise ValueError(f"Pathfinder has data.name {', '.join(CONTOURS)}, got {name!r}")
    if options.path is not None:
        from tost.data.long_range.pathfinder_files import read_released

        return read_released(options, side, name)
    if side not in DRAWINGS:
        raise ValueError(f"Pathfinder has published settings for data.size {', '.join(map(str, DRAWINGS))}, got {side}")
    counts = {part: options.evaluated or COUNTS[part] for part in COUNTS}
    counts["train"] = options.samples or COUNTS["train"]
    parts = {part: Drawn(DRAWINGS[side], CONTOURS[name], options.seed, part, counts[part]) for part in COUNTS}
    facts: dict[str, Any] = {"from": "generated", "seed": options.seed, "size": side, "difficulty": name}
    facts |= {part: describe(drawn) for part, drawn in parts.items()}
    train, validation, test = parts.values()
    return SequenceSets(train, validation, test, CLASSES, side * side, vocab_size=256, facts=facts)


def describe(drawn: Drawn) -> dict[str, Any]:
    """As tost.data.splits.describe; the fingerprint is that of the first images."""
    side = drawn.drawing.side
    told = hashlib.sha256()
    for index in range(min(8, len(drawn))):
        told.update(drawn.image(index).data)
    return {
        "sequences": len(drawn),
        "tokens": len(drawn) * side * side,
        "median": side * side,
        "longest": side * side,
        "commonest": round(-(-len(drawn) // 2) / len(drawn), 4),
        "fingerprint": told.hexdigest()[:16],
    }
