"""Documents as rows of exactly N tokens: one stream, cut every N tokens, with the document boundaries remembered."""

# B rows in a batch, N tokens in a row (the context), T tokens in all, D documents, S segments of a batch

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

IGNORE = -100  # a label that is not counted


class Documents(Protocol):
    """Tokens of documents by number; they may lie in memory or on the disk."""

    lengths: np.ndarray  # [D] int64, the end-of-text token included

    def read(self, document: int) -> np.ndarray:
        """The ids of one document."""
        ...


class MemoryDocuments:
    """Documents held as one array. ids: [T]; lengths: [D]."""

    def __init__(self, ids: Sequence[np.ndarray]) -> None:
        self.lengths = np.asarray([len(one) for one in ids], dtype=np.int64)
        self.ids = np.concatenate(ids)
        self._ends = np.cumsum(self.lengths)

    def read(self, document: int) -> np.ndarray:
        end = self._ends[document]
        return self.ids[end - self.lengths[document] : end]


class TableDocuments:
    """Documents in a column `ids` of a Hugging Face dataset, memory-mapped from its cache."""

    def __init__(self, table: Any, lengths: np.ndarray) -> None:
        self.table, self.lengths = table.with_format("numpy"), lengths

    def read(self, document: int) -> np.ndarray:
        return np.asarray(self.table[int(document)]["ids"])


class PackedText(Dataset):
    """Rows of `context` tokens from the documents `order`, one after the other; a document may span rows.

    An item is {"ids": int64 [N], "starts": int64 [..], "length": int}: the places in the row where a document, or what
    is left of it, begins, and how many tokens are real. No token is lost: the last row is filled up with `fill`.
    """

    def __init__(self, documents: Documents, order: np.ndarray, context: int, fill: int) -> None:
        self.documents, self.order, self.context, self.fill = documents, np.asarray(order), context, fill
        self._begins = np.concatenate([[0], np.cumsum(documents.lengths[self.order])])

    @property
    def tokens(self) -> int:
        """Tokens in all rows, without the filling."""
        return int(self._begins[-1])

    def __len__(self) -> int:
        return -(-self.tokens // self.context)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        N, begin = self.context, row * self.context
        end = min(begin + N, self.tokens)
        ids = np.full(N, self.fill, dtype=np.int64)
        first = int(np.searchsorted(self._begins, begin, side="right")) - 1
        last = int(np.searchsorted(self._begins, end, side="left"))
        for place in range(first, last):
            begins = self._begins[place]
            tokens = self.documents.read(self.order[place])[max(begin - begins, 0) : end - begins]
            at = max(begins - begin, 0)
            ids[at : at + len(tokens)] = tokens
        starts = np.concatenate([[0], self._begins[first + 1 : last] - begin])
        length = end - begin
        if length < N:
            starts = np.concatenate([starts, [length]])
        return {"ids": torch.from_numpy(ids), "starts": torch.from_numpy(starts), "length": length}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch for ToSTForCausalLM: input_ids, labels [B, N], and cu_seqlens [S + 1] int32 where a row holds a boundary.

    The labels are the ids, but IGNORE where a document begins (nothing before it may tell it) and in the filling.
    """
    ids = torch.stack([row["ids"] for row in rows])
    N, labels = ids.shape[1], ids.clone()
    starts = torch.cat([row["starts"] + i * N for i, row in enumerate(rows)])
    labels.view(-1)[starts] = IGNORE
    for row, label in zip(rows, labels):
        label[row["length"] :] = IGNORE
    batch = {"input_ids": ids, "labels": labels}
    if len(starts) > len(rows):
        batch["cu_seqlens"] = torch.cat([starts, starts.new_tensor([ids.numel()])]).to(torch.int32)
    return batch
