"""Sums over the tokens of each sequence, whether sequences are rows of a batch or packed one after another."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tost.ops.common import statistics_dtype

BLOCK = 2**17  # numbers in a block of tokens: 512 kB in float32, an L2 cache's worth with the temporaries


def no_autocast(device_type: str) -> AbstractContextManager:
    """Within it, matrix products keep their precision (devices without autocast, such as meta, need nothing)."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x in the statistics' dtype with masked tokens set to zero (chosen, not multiplied: they may hold NaN)."""
    x = x.to(statistics_dtype(x.dtype))
    return x if mask is None else torch.where(mask[..., None, None], x, 0.0)


def token_blocks(x: Tensor, multiple: int = 16) -> list[slice]:
    """Ranges of tokens of x [B, N, H, D] to take one after another, so that a CPU's cache holds the temporaries.

    A single one on other devices, and where a graph is traced.
    """
    B, N, H, D = x.shape
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.numel() <= BLOCK:
        return [slice(0, N)]
    size = max(multiple, BLOCK // (B * H * D) // multiple * multiple)
    return [slice(start, min(start + size, N)) for start in range(0, N, size)]


def segments_of(x: Tensor, cu_seqlens: Tensor | None) -> Dense | Packed:
    """The way to sum over tokens of x: [B, N, H, D]."""
    return (
        Dense(token_blocks(x))
        if cu_seqlens is None
        else Packed(segment_ids(x.shape[1], cu_seqlens), cu_seqlens.numel() - 1)
    )


def segment_ids(N: int, cu_seqlens: Tensor) -> Tensor:
    """[N], which packed sequence each token belongs to."""
    token = torch.arange(N, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)


class Dense:
    """One sequence a batch row."""

    def __init__(self, blocks: list[slice]) -> None:
        self.blocks = blocks

    def total(self, x: Tensor) -> Tensor:
        """sum_n x: [B, N, ...] -> [B, ...]."""
        return x.sum(1)

    def spread(self, s: Tensor) -> Tensor:
        """The value of its sequence at every token: [B, ...] -> [B, 1, ...]."""
        return s.unsqueeze(1)

    def dot(self, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        """sum_d a b s: [B, N, H, D] twice, [B, H, D] -> [B, N, H]."""
        return torch.cat([(a[:, k] * b[:, k] * s.unsqueeze(1)).sum(-1) for k in self.blocks], 1)

    def weigh(self, pi: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        """sum_n pi a b: [B, N, H] (or None for ones), [B, N, H, D] twice -> [B, H, D]."""
        products = (a[:, k] * b[:, k] if pi is None else a[:, k] * b[:, k] * pi[:, k, :, None] for k in self.blocks)
        return torch.stack([product.sum(1) for product in products]).sum(0)

    def each(self, like: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
        """A tensor like this one, made token range by token range."""
        if len(self.blocks) == 1 or torch.is_grad_enabled():
            return make(slice(None))
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        for block in self.blocks:
            out[:, block] = make(block)
        return out


class Packed:
    """Sequences one after another in one batch row; `ids` [N] names each token's sequence. Methods as Dense's."""

    def __init__(self, ids: Tensor, count: int) -> None:
        self.ids, self.count = ids, count

    def total(self, x: Tensor) -> Tensor:
        # index_add adds one by one: in float64, or long sequences would lose their small terms
        sums = x.new_zeros(self.count, *x.shape[2:], dtype=torch.float64)
        return sums.index_add(0, self.ids, x[0].double()).to(x.dtype)

    def spread(self, s: Tensor) -> Tensor:
        return s[self.ids].unsqueeze(0)

    def dot(self, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        return (a * b * self.spread(s)).sum(-1)

    def weigh(self, pi: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        return self.total(a * b if pi is None else a * b * pi.unsqueeze(-1))

    def each(self, like: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
        return make(slice(None))
