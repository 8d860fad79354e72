"""Who does which tokens: every kernel runs one program a tile, a run of tokens of one sequence."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones), T tokens a tile, P tiles

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED_UNITS = 2  # of Triton's interpreter, which runs one program after another: enough for several tiles


@dataclass(frozen=True)
class Tiles:
    """Tiles of at most T tokens that never straddle two sequences.

    table: [P, 3] int64, sequence, first row and end of each tile, and first: [S + 1] int64, first tile of each
    sequence; both None for a dense batch, whose tiles are reckoned in the kernel. Rows count tokens over the batch.
    """

    T: int
    P: int
    S: int
    N: int
    table: Tensor | None
    first: Tensor | None

    @property
    def arguments(self) -> dict:
        """What `tile_at` and `tiles_of` need."""
        return {"table": self.table, "first": self.first, "N": self.N, "T": self.T, "PACKED": self.table is not None}


def tiles_of(w: Tensor, cu_seqlens: Tensor | None, T: int) -> Tiles:
    """Cut the sequences of w [B, N, H, D]. Nothing here waits for the device."""
    B, N = w.shape[:2]
    if cu_seqlens is None:
        return Tiles(T, B * triton.cdiv(N, T), B, N, None, None)
    bounds = cu_seqlens.to(w.device, torch.int64)
    S, P = len(bounds) - 1, tile_count(w, cu_seqlens, T)
    first = torch.nn.functional.pad(((bounds.diff() + T - 1) // T).cumsum(0), (1, 0))
    tile = torch.arange(P, device=w.device)
    sequence = torch.searchsorted(first[1:], tile, right=True).clamp(max=S - 1)
    start = bounds[sequence] + (tile - first[sequence]) * T
    end = torch.minimum(start + T, bounds[sequence + 1])  # before start, so no token, where the tile is one too many
    return Tiles(T, P, S, N, torch.stack([sequence, start, end], 1).contiguous(), first)


def tile_count(w: Tensor, cu_seqlens: Tensor | None, T: int) -> int:
    """Tiles of T tokens: exact for a batch, enough for packed sequences, whose lengths only the device knows."""
    B, N = w.shape[:2]
    return B * triton.cdiv(N, T) if cu_seqlens is None else N // T + cu_seqlens.shape[0] - 1


@triton.jit
def tile_at(p, table, N, T: tl.constexpr, PACKED: tl.constexpr):
    """Sequence and first row of tile p, in 64 bits as w may have more than 2^31 entries, and its number of tokens."""
    if PACKED:
        sequence = tl.load(table + 3 * p)
        start = tl.load(table + 3 * p + 1)
        end = tl.load(table + 3 * p + 2)
    else:
        per_sequence = tl.cdiv(N, T)
        sequence = (p // per_sequence).to(tl.int64)
        start = sequence * N + (p % per_sequence).to(tl.int64) * T
        end = tl.minimum(start + T, (sequence + 1) * N)
    return sequence, start, (end - start).to(tl.int32)


@triton.jit
def tile_range(sequence, first, N, T: tl.constexpr, PACKED: tl.constexpr):
    """First tile and end of a sequence's tiles."""
    if PACKED:
        begin = tl.load(first + sequence)
        end = tl.load(first + sequence + 1)
    else:
        per_sequence = tl.cdiv(N, T)
        begin = (sequence * per_sequence).to(tl.int64)
        end = begin + per_sequence
    return begin, end


def units(device: torch.device) -> int:
    """Multiprocessors of a device (compute units, on AMD's)."""
    if device.type == "cpu":
        return INTERPRETED_UNITS
    return _units(device)


@cache
def _units(device: torch.device) -> int:
    return torch.get_device_module(device).get_device_properties(device).multi_processor_count


def on_device(w: Tensor) -> AbstractContextManager:
    """Within it kernels run where w lies."""
    return nullcontext() if w.device.type == "cpu" else torch.get_device_module(w.device).device(w.device)
