"""Sums over the tokens of each sequence, whether sequences are rows of a batch or packed one after another."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: half-precision squares overflow, and their sums drown."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def no_autocast(device_type: str) -> AbstractContextManager:
    """Within it, matrix products keep their precision (devices without autocast, such as meta, need nothing)."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x in the statistics' dtype with masked tokens set to zero (chosen, not multiplied: they may hold NaN)."""
    x = x.to(statistics_dtype(x.dtype))
    return x if mask is None else torch.where(mask[..., None, None], x, 0.0)


def segments_of(x: Tensor, cu_seqlens: Tensor | None) -> Dense | Packed:
    """The way to sum over tokens of x: [B, N, H, D]."""
    return Dense() if cu_seqlens is None else Packed(segment_ids(x.shape[1], cu_seqlens), cu_seqlens.numel() - 1)


def segment_ids(N: int, cu_seqlens: Tensor) -> Tensor:
    """[N], which packed sequence each token belongs to."""
    token = torch.arange(N, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)


class Dense:
    """One sequence a batch row."""

    def total(self, x: Tensor) -> Tensor:
        """sum_n x: [B, N, ...] -> [B, ...]."""
        return x.sum(1)

    def spread(self, s: Tensor) -> Tensor:
        """The value of its sequence at every token: [B, ...] -> [B, 1, ...]."""
        return s.unsqueeze(1)

    def dot(self, x: Tensor, s: Tensor) -> Tensor:
        """sum_d x * s: [B, N, H, D], [B, H, D] -> [B, N, H].

        One product with a block-diagonal matrix: multiplying by zeros costs less than a product tensor of x's size.
        """
        H, D = s.shape[1:]
        eye = torch.eye(H, dtype=s.dtype, device=s.device)
        blocks = (s.unsqueeze(-1) * eye[:, None, :]).flatten(1, 2)  # [B, H*D, H]
        return x.flatten(2) @ blocks

    def weigh(self, pi: Tensor, x: Tensor) -> Tensor:
        """sum_n pi * x: [B, N, H], [B, N, H, D] -> [B, H, D]: the diagonal blocks of one product."""
        H, D = x.shape[2:]
        product = pi.transpose(1, 2) @ x.flatten(2)  # [B, H, H*D]
        return product.unflatten(-1, (H, D)).diagonal(dim1=1, dim2=2).movedim(-1, 1)


class Packed:
    """Sequences one after another in a single batch row; `ids` [N] names the sequence of each token."""

    def __init__(self, ids: Tensor, count: int) -> None:
        self.ids, self.count = ids, count

    def total(self, x: Tensor) -> Tensor:
        # index_add adds one by one: in float64, or long sequences would lose their small terms
        sums = x.new_zeros(self.count, *x.shape[2:], dtype=torch.float64)
        return sums.index_add(0, self.ids, x[0].double()).to(x.dtype)

    def spread(self, s: Tensor) -> Tensor:
        return s[self.ids].unsqueeze(0)

    def dot(self, x: Tensor, s: Tensor) -> Tensor:
        return (x * self.spread(s)).sum(-1)

    def weigh(self, pi: Tensor, x: Tensor) -> Tensor:
        return self.total(pi.unsqueeze(-1) * x)
