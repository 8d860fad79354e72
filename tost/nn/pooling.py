"""One vector for each sequence, whether it is padded, packed, or still going on."""

# B batch, N tokens, C features, S packed sequences

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

POOLS = ("mean", "max", "last")


class PoolState(NamedTuple):
    """What the tokens so far come to: their float64 sum, their maximum or the last one, [B, C]; how many, [B] int64."""

    value: Tensor
    length: Tensor


def pool(x: Tensor, how: str, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """The mean, maximum or last of the real tokens of x [B, N, C]: [B, C], or [S, C] of packed sequences.

    mask: [B, N] bool.  cu_seqlens: [S + 1], B = 1; both: masked tokens of packed sequences are left out.
    A sequence without a real token gives zeros.
    """
    if cu_seqlens is None and mask is None:
        rows = torch.arange(x.shape[0], device=x.device)
        row, tokens = rows.repeat_interleave(x.shape[1]), x.flatten(0, 1)
        counts = torch.full_like(rows, x.shape[1])
    elif cu_seqlens is None:
        assert mask is not None
        counts = mask.sum(1)
        row = torch.arange(x.shape[0], device=x.device).repeat_interleave(counts)
        tokens = x[mask]
    else:
        counts = cu_seqlens.to(x.device, torch.int64).diff()
        row, tokens = torch.arange(len(counts), device=x.device).repeat_interleave(counts), x[0]
        if mask is not None:
            row, tokens = row[mask[0]], tokens[mask[0]]
            counts = torch.zeros_like(counts).index_add(0, row, torch.ones_like(row))
    if how == "mean":
        total = tokens.new_zeros(len(counts), x.shape[-1], dtype=_wide(x)).index_add(0, row, tokens.to(_wide(x)))
        return (total / counts.clamp_min(1)[:, None]).to(x.dtype)
    if how == "last":
        last = (counts.cumsum(0) - 1).clamp_min(0)
        return tokens[last] * (counts > 0)[:, None] if len(tokens) else x.new_zeros(len(counts), x.shape[-1])
    place = row[:, None].expand_as(tokens)
    return x.new_zeros(len(counts), x.shape[-1]).scatter_reduce(0, place, tokens, "amax", include_self=False)


def pool_stream(
    x: Tensor, how: str, mask: Tensor | None = None, state: PoolState | None = None
) -> tuple[Tensor, PoolState]:
    """`pool` of the tokens so far after each of x [B, N, C]: [B, N, C], and the state to go on from.

    After a masked token the value is what it was before it.
    """
    B, N, C = x.shape
    if state is None:
        state = PoolState(x.new_zeros(B, C, dtype=torch.float64), torch.zeros(B, dtype=torch.int64, device=x.device))
    real = torch.ones(B, N, dtype=torch.bool, device=x.device) if mask is None else mask
    length = state.length[:, None] + real.cumsum(1)
    wide, before = x.double(), state.value[:, None]
    if how == "mean":
        value = before + (wide * real[..., None]).cumsum(1)
        out = value / length.clamp_min(1)[..., None]
    elif how == "max":
        none = torch.full_like(before, -torch.inf)
        held = torch.where(state.length[:, None, None] > 0, before, none)
        seen = torch.cat([held, torch.where(real[..., None], wide, none)], 1).cummax(1).values[:, 1:]
        out = value = torch.where(length[..., None] > 0, seen, 0.0)
    else:
        step = torch.arange(1, N + 1, device=x.device) * real
        last = step.cummax(1).values if N else step  # 0: no real token yet in this call
        every = torch.cat([before, wide], 1)
        out = value = every.gather(1, last[..., None].expand(-1, -1, C))
    end = PoolState(value[:, -1] if N else state.value, length[:, -1] if N else state.length)
    return out.to(x.dtype), end


def _wide(x: Tensor) -> torch.dtype:
    """Sums run in float32 at least."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
