"""Sequences of any length with a label each, or one for every token; batches of them, packed or padded."""

# B items, N tokens, F numbers of a token, S sequences of a batch (2 B of pairs)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

IGNORE = -100  # the label of a token that is not judged


@dataclass
class SequenceSets:
    """A task on sequences. An item is {"x": ids [N] or float32 [N, F], "label": int, or int64 [N] with per_token}.

    Of a pair also "other", as x.  vocab_size or in_features: what a token is.  held_out: the name of the test split.
    facts: what the data are, as summary.json tells it.
    """

    train: Any
    validation: Any
    test: Any
    classes: list[str]
    max_length: int
    vocab_size: int = 0
    in_features: int = 0
    pair: bool = False
    per_token: bool = False
    held_out: str = "test"
    facts: dict[str, Any] = field(default_factory=dict)


class Ragged(Dataset):
    """Sequences of different lengths in one flat array: the i-th is values[offsets[i]:offsets[i + 1]].

    values: [total] or [total, F].  offsets: [items + 1] int64.  labels: [items], or [total] with per_token.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray, labels: np.ndarray, per_token: bool = False) -> None:
        counted = len(values) if per_token else len(offsets) - 1
        if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any() or len(labels) != counted:
            raise ValueError(
                f"Ragged expects offsets from 0 to {len(values)} that don't fall and {counted} labels, got "
                f"{offsets[0]} to {offsets[-1]} and {len(labels)}"
            )
        self.values, self.offsets, self.labels, self.per_token = values, offsets, labels, per_token

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], labels: Any, per_token: bool = False) -> Ragged:
        """From separate arrays; labels: one a sequence, or with per_token an array a sequence."""
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        told = np.concatenate(labels) if per_token else np.asarray(labels, dtype=np.int64)
        return cls(np.concatenate(sequences), offsets, told, per_token)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        label = self.labels[place].astype(np.int64) if self.per_token else int(self.labels[index])
        return {"x": self.values[place], "label": label}


def collate(items: Sequence[dict[str, Any]], pack: bool = True) -> dict[str, Tensor]:
    """A batch: "labels" [B], or [S, longest] with IGNORE after the end where every token has one, "x" and its bounds.

    pack: "x" [1, total(, F)] and "cu_seqlens" [S + 1] int32; else "x" [S, longest(, F)] and, where lengths differ,
    "mask" [S, longest]. Of pairs, sequence 2i is the x of item i and 2i + 1 its other.
    """
    parts = [np.asarray(item[name]) for item in items for name in ("x", "other") if name in item]
    lengths = torch.tensor([len(part) for part in parts])
    batch = {"labels": _labels([item["label"] for item in items], int(lengths.max()))}
    if pack:
        batch["x"] = _tensor(np.concatenate(parts))[None]
        batch["cu_seqlens"] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)
        return batch
    x = np.zeros((len(parts), int(lengths.max()), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for row, part in zip(x, parts):
        row[: len(part)] = part
    batch["x"] = _tensor(x)
    if int(lengths.min()) < x.shape[1]:
        batch["mask"] = torch.arange(x.shape[1]) < lengths[:, None]
    return batch


def _tensor(values: np.ndarray) -> Tensor:
    """Numbers as float32, ids as int64."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def _labels(labels: list[Any], longest: int) -> Tensor:
    if np.ndim(labels[0]) == 0:
        return torch.tensor(labels, dtype=torch.int64)
    table = torch.full((len(labels), longest), IGNORE, dtype=torch.int64)
    for row, label in zip(table, labels):
        row[: len(label)] = torch.from_numpy(np.asarray(label, dtype=np.int64))
    return table
