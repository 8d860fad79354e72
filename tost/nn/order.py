"""Where a token stands in its sequence: after padding, after earlier calls, in packed documents."""

# B batch, N tokens, S packed sequences

from __future__ import annotations

import torch
from torch import Tensor


def token_positions(x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, length: Tensor | None) -> Tensor:
    """How many real tokens of its sequence came before each token of x [B, N, ...]: [B or 1, N] int64.

    mask: [B, N] bool, True = a real token (masked ones get the position of the token before them, or 0).
    cu_seqlens: [S + 1], the count restarts at every boundary (B = 1).  length: [B], tokens of earlier calls.
    """
    N = x.shape[1]
    if mask is None:
        seen = torch.arange(1, N + 1, device=x.device)[None]
    else:
        seen = mask.long().cumsum(1)
    if cu_seqlens is not None:
        bounds = cu_seqlens.to(x.device, torch.int64)
        before = torch.cat([seen.new_zeros(1), seen[0]])[bounds[:-1]]
        seen = seen - before.repeat_interleave(bounds.diff(), output_size=N)[None]
    positions = (seen - 1).clamp(min=0)
    return positions if length is None else positions + length.to(x.device)[:, None]


def count_after(x: Tensor, mask: Tensor | None, length: Tensor | None) -> Tensor:
    """[B] int64: real tokens of each row so far."""
    count = torch.full((x.shape[0],), x.shape[1], device=x.device) if mask is None else mask.sum(1)
    return count if length is None else length.to(x.device) + count
