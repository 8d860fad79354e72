"""Questions about grids of digits: the rules are right, and no part sees what another is asked about."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from tost.data import load_images
from tost.data.image_text import ImageTextOptions, load_image_text
from tost.data.images import ImageOptions
from tost.data.questions import KINDS, GridQuestions, digit_scans, part_of

SCANS = digit_scans()
OPTIONS = {"mean": [0.3], "std": [0.4], "samples": 300, "evaluated": 80}


def make(part="train", count=200, **options):
    return GridQuestions(*SCANS[part], part, count, **{"questions": 4, **options})


def answered(text, grid):
    """The answer, from the text and the grid alone."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    cells = {(r + 1, c + 1): int(grid[r, c]) for r in range(len(grid)) for c in range(len(grid[0]))}
    if text.startswith("Which"):
        return str(cells[numbers[0], numbers[1]])
    if text.startswith("How many"):
        return str(sum(digit == numbers[0] for digit in cells.values()))
    if text.startswith("Where"):
        found = [f"row {r}, column {c}" for (r, c), digit in cells.items() if digit == numbers[0]]
        assert len(found) < 2
        return found[0] if found else "nowhere"
    axis = 0 if " row " in text else 1
    return str(sum(digit for place, digit in cells.items() if place[axis] == numbers[0]))


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 2)], ids=str)
def test_the_rules_answer_right(size):
    kinds = Counter()
    for item in (make(size=size)[i] for i in range(100)):
        assert item["image"].shape == (1, 8 * size[0], 8 * size[1]) and item["grid"].shape == size
        for question in item["questions"]:
            assert question.answer == answered(question.text, item["grid"])
            kinds[question.kind] += 1
    assert kinds == dict.fromkeys(KINDS, 100)


def test_the_image_shows_the_grid():
    scans, labels = SCANS["train"]
    known = {scan.tobytes(): label for scan, label in zip(scans, labels)}
    for item in (make(size=(2, 3))[i] for i in range(20)):
        cells = item["image"][0].reshape(2, 8, 3, 8).swapaxes(1, 2)
        assert [[known[cell.tobytes()] for cell in row] for row in cells] == item["grid"].tolist()


def test_parts_share_neither_scans_nor_grids():
    scans = {part: {scan.tobytes() for scan in found} for part, (found, _) in SCANS.items()}
    assert [len(labels) for _, labels in SCANS.values()] == [1295, 143, 359]
    assert not scans["train"] & scans["test"] and not scans["validation"] & (scans["train"] | scans["test"])
    grids = {part: {make(part)[i]["grid"].tobytes() for i in range(200)} for part in SCANS}
    assert not grids["train"] & grids["test"] and not grids["validation"] & (grids["train"] | grids["test"])
    every = Counter(part_of(np.array(cells).reshape(2, 2)) for cells in itertools.product(range(10), repeat=4))
    assert 900 < every["test"] < 1100 and 900 < every["validation"] < 1100


def test_test_scans_are_those_of_vision_digits():
    images = load_images("digits", None, ImageOptions(8, validation=0.1)).test
    assert np.array_equal(SCANS["test"][0], images.pixels[:, 0].numpy())


def test_an_item_is_always_the_same():
    one, other = make()[7], make()[7]
    assert np.array_equal(one["image"], other["image"]) and one["questions"] == other["questions"]
    assert one["questions"] != make()[8]["questions"] and one["questions"] != make(seed=1)[7]["questions"]
    first = [(q.text, q.answer) for q in make(count=1)[0]["questions"]]
    assert first == [
        ("Which digit is in row 1, column 1?", "2"),
        ("Where is the 5?", "nowhere"),
        ("How many 2s are there?", "2"),
        ("What is the sum of column 1?", "5"),
    ]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kinds": ["why"]}, "which, where, how many, sum, got"),
        ({"kinds": []}, "got"),
        ({"size": (0, 2)}, "2 to 81 cells"),
        ({"size": (1, 1)}, "no grid to hold out"),
        ({"size": (2, 10)}, "9 a side"),
        ({"count": 0}, "from 1 on"),
        ({"part": "exam"}, "'exam'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong, told):
    options = {"part": "train", "count": 5, **wrong}
    with pytest.raises(ValueError, match=told):
        GridQuestions(*SCANS["train"], **options)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mean": [0.1, 0.2]}, "one number"),
        ({"std": [0.0]}, "above 0"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, "grey"),
        ({"grid": [2]}, "two numbers"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        load_image_text(ImageTextOptions(**{**OPTIONS, **wrong}))
