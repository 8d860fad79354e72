import numpy as np
import pytest
import torch

from tost.data.sequences import IGNORE, Ragged, collate

PARTS = [np.arange(3, dtype=np.uint8), np.arange(5, dtype=np.uint8), np.arange(1, dtype=np.uint8)]


def test_ragged_gives_back_what_went_in():
    data = Ragged.of(PARTS, [4, 5, 6])
    assert [(item["x"].tolist(), item["label"]) for item in data] == [
        (part.tolist(), label) for part, label in zip(PARTS, (4, 5, 6))
    ]
    tokens = Ragged.of(PARTS, [np.full(len(part), i) for i, part in enumerate(PARTS)], per_token=True)
    assert tokens[1]["label"].tolist() == [1] * 5
    with pytest.raises(ValueError, match="2 labels, got 0 to 9 and 3"):
        Ragged(np.zeros(9), np.array([0, 4, 9]), np.zeros(3))


def test_packed_and_padded_hold_the_same_tokens():
    items = list(Ragged.of(PARTS, [4, 5, 6]))
    packed, padded = collate(items), collate(items, pack=False)
    assert packed["labels"].tolist() == padded["labels"].tolist() == [4, 5, 6]
    assert packed["cu_seqlens"].tolist() == [0, 3, 8, 9]
    assert padded["x"][padded["mask"]].tolist() == packed["x"][0].tolist()
    assert "mask" not in collate(items[:1], pack=False)


def test_pairs_stand_side_by_side():
    batch = collate([{"x": PARTS[0], "other": PARTS[1], "label": 1}, {"x": PARTS[2], "other": PARTS[0], "label": 0}])
    assert batch["cu_seqlens"].diff().tolist() == [3, 5, 1, 3] and batch["labels"].tolist() == [1, 0]


def test_numbers_and_labels_of_tokens():
    parts = [np.ones((n, 2), dtype=np.float32) for n in (2, 3)]
    items = list(Ragged.of(parts, [np.array([1, 2]), np.array([3, 4, 5])], per_token=True))
    batch = collate(items)
    assert batch["x"].shape == (1, 5, 2) and batch["x"].dtype == torch.float32
    assert batch["labels"].tolist() == [[1, 2, IGNORE], [3, 4, 5]]
