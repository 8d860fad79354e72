"""Questions in English about scanned digits arranged in a grid; a rule gives the answers."""

# R x C cells, S side of a scan in pixels, M scans

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from tost.data.images import split_stratified
from tost.extras import require

KINDS = ("which", "where", "how many", "sum")
PARTS = ("train", "validation", "test")


class Question(NamedTuple):
    """A question and its answer. kind: which of KINDS."""

    kind: str
    text: str
    answer: str


class GridQuestions(Dataset):
    """Grids of scans and questions about them, each made when it is asked for, from the seed, the part and its index.

    scans: uint8 [M, S, S].  labels: [M].  A grid of labels belongs to one part alone (`part_of`), so no grid of the
    test part was ever trained on, whatever the scans.
    An item is {"image": uint8 [1, R*S, C*S], "grid": int64 [R, C], "questions": Questions of the kinds in turn}.
    """

    def __init__(
        self,
        scans: np.ndarray,
        labels: np.ndarray,
        part: str,
        count: int,
        size: tuple[int, int] = (2, 2),
        questions: int = 1,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise ValueError(f"GridQuestions asks {', '.join(KINDS)}, got {list(kinds)}")
        if part not in PARTS:
            raise ValueError(f"GridQuestions has the parts {', '.join(PARTS)}, got {part!r}")
        if min(count, questions, *size) < 1 or max(size) > 9 or max(size) < 2:
            raise ValueError(
                f"GridQuestions expects a count and questions from 1 on and 2 to 81 cells, 9 a side at most, got "
                f"{count}, {questions} and {size[0]} x {size[1]}; a single cell leaves no grid to hold out"
            )
        if set(np.unique(labels)) != set(range(10)):
            raise ValueError(f"GridQuestions expects scans of every digit, got {np.unique(labels).tolist()}")
        self.scans, self.part, self.count, self.size = scans, part, count, size
        self.questions, self.kinds, self.seed = questions, tuple(kinds), seed
        self.of_digit = [np.flatnonzero(labels == digit) for digit in range(10)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        chance = random.Random(f"{self.seed}-{self.part}-{index}")
        grid = self.grid(chance)
        while part_of(grid) != self.part:
            grid = self.grid(chance)
        image = self.draw(grid, chance)
        first = index * self.questions
        asked = [ask(self.kinds[(first + i) % len(self.kinds)], grid, chance) for i in range(self.questions)]
        return {"image": image, "grid": grid, "questions": asked}

    def grid(self, chance: random.Random) -> np.ndarray:
        """Labels [R, C] by chance."""
        rows, columns = self.size
        return np.array([chance.randrange(10) for _ in range(rows * columns)]).reshape(rows, columns)

    def draw(self, grid: np.ndarray, chance: random.Random) -> np.ndarray:
        """An image [1, R*S, C*S] of a grid [R, C], with scans by chance."""
        among = [self.of_digit[digit] for digit in grid.flat]
        cells = self.scans[[found[chance.randrange(len(found))] for found in among]]
        (R, C), S = grid.shape, cells.shape[-1]
        return np.ascontiguousarray(cells.reshape(R, C, S, S).swapaxes(1, 2).reshape(1, R * S, C * S))


def part_of(grid: np.ndarray) -> str:
    """The part a grid of labels belongs to, by a checksum: a tenth test, a tenth validation."""
    bucket = zlib.crc32(bytes(grid.shape) + grid.astype(np.uint8).tobytes()) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def ask(kind: str, grid: np.ndarray, chance: random.Random) -> Question:
    """A question of a kind about a grid [R, C], and what the rule answers."""
    rows, columns = grid.shape
    row, column = chance.randrange(rows), chance.randrange(columns)
    if kind == "which":
        return Question(kind, f"Which digit is in row {row + 1}, column {column + 1}?", str(grid[row, column]))
    if kind == "sum":
        which = chance.randrange(rows + columns)
        name, line = (f"row {which + 1}", grid[which]) if which < rows else _column(grid, which - rows)
        return Question(kind, f"What is the sum of {name}?", str(line.sum()))
    counts = np.bincount(grid.ravel(), minlength=10)
    if kind == "how many":
        digit = grid[row, column] if chance.random() < 0.7 else chance.randrange(10)
        return Question(kind, f"How many {digit}s are there?", str(counts[digit]))
    once, absent = np.flatnonzero(counts == 1), np.flatnonzero(counts == 0)
    among = once if len(once) and (chance.random() < 0.8 or not len(absent)) else absent
    digit = among[chance.randrange(len(among))]
    return Question(kind, f"Where is the {digit}?", _place(grid, digit))


def _column(grid: np.ndarray, column: int) -> tuple[str, np.ndarray]:
    return f"column {column + 1}", grid[:, column]


def _place(grid: np.ndarray, digit: int) -> str:
    """Where a digit that is there at most once stands."""
    if not (grid == digit).any():
        return "nowhere"
    row, column = np.argwhere(grid == digit)[0]
    return f"row {row + 1}, column {column + 1}"


def digit_scans(validation: float = 0.1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Part -> (scans uint8 [M, 8, 8], labels [M]) of scikit-learn's digits; the test scans are vision-digits'."""
    bunch = require("sklearn.datasets", extra="training").load_digits()
    scans = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    kept, test = split_stratified(bunch.target, 0.2)
    train, watched = split_stratified(bunch.target[kept], validation)
    indices = {"train": kept[train], "validation": kept[watched], "test": test}
    return {part: (scans[chosen], bunch.target[chosen]) for part, chosen in indices.items()}
