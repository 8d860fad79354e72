"""The full operator on a GPU, forward.

Every sum over the tokens must be complete before the next quantity can be formed: energies before memberships,
memberships before moments, moments before the output. So w, too large for a chip's own memory, is read three times and
y written once: 4 |w| bytes, plus 8 N H bytes for the memberships (3/D of that in float32, 6/D in half precision). What
fits into the second-level cache (50 MB on a Hopper) is read from memory once. Sums are float32 (float64 for float64
input) inside a tile and float64 between tiles, each cell by one program in a fixed order: results repeat bit for bit,
no atomics. Gradients: full_backward.py.
"""

# B batch, N tokens, H heads, D features per head, C = H*D, S sequences (or packed ones), P tiles, T tokens a tile

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tost.ops.common import FULL_FLOOR, MASS_EPS, statistics_dtype
from tost.ops.triton import settings
from tost.ops.triton.blocks import head_block, real_rows, softmax_heads
from tost.ops.triton.tiles import Tiles, on_device, tile_at, tile_range, tiles_of

FLOOR: tl.constexpr = tl.constexpr(FULL_FLOOR)
EPS: tl.constexpr = tl.constexpr(MASS_EPS)


@triton.jit
def energy_kernel(
    w, mask, partial, table, first, N, C,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """partial [P, C]: the sum of w^2 over a tile; C columns, heads or not."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w += start * C
    if MASKED:
        mask += start
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], partial.dtype.element_ty)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        here = real[:, None] & (column < C)[None, :]
        x = tl.load(w + rows[:, None] * C + column[None, :], mask=here, other=0.0).to(total.dtype)
        total += x * x
    tl.store(partial + p.to(tl.int64) * C + column, tl.sum(total, 0), mask=column < C)


@triton.jit
def membership_kernel(
    w, temperature, mask, energy, membership, partial, table, first, N, H, D,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """membership [B, N, H], and partial [P, C + H]: the sums of Pi w^2 and of Pi over a tile."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w, membership = w + start * H * D, membership + start * H
    if MASKED:
        mask += start
    WIDE: tl.constexpr = partial.dtype.element_ty
    C = H * D
    head = tl.arange(0, HP)
    feature, exists = head_block(H, D, HP, DP)
    inverse = 1 / tl.maximum(tl.load(energy + sequence * C + feature, mask=exists, other=1.0), FLOOR)
    t = tl.load(temperature + head, mask=head < H, other=0.0)
    mass = tl.zeros([HP], WIDE)
    moment = tl.zeros([HP, DP], WIDE)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        here = real[:, None, None] & exists[None, :, :]
        x = tl.load(w + rows[:, None, None] * C + feature[None, :, :], mask=here, other=0.0).to(WIDE)
        square = x * x
        score = tl.sum(square * inverse[None, :, :], 2)
        pi = softmax_heads(t[None, :] * score, (head < H)[None, :], 1)
        pi = tl.where(real[:, None], pi, 0.0)
        tl.store(membership + rows[:, None] * H + head[None, :], pi, mask=(rows < count)[:, None] & (head < H)[None, :])
        mass += tl.sum(pi, 0)
        moment += tl.sum(pi[:, :, None] * square, 0)
    own = partial + p.to(tl.int64) * (C + H)
    tl.store(own + feature, moment, mask=exists)
    tl.store(own + C + head, mass, mask=head < H)


@triton.jit
def total_kernel(
    partial, sums, mass, table, first, N, H, D, WIDTH,
    T: tl.constexpr, PACKED: tl.constexpr, WITH_MASS: tl.constexpr, MANY: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """sums [S, H, D]: the first C of WIDTH columns of partial over a sequence's tiles; with mass [S, H], the mean."""
    sequence, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tile_range(sequence, first, N, T, PACKED)
    d = tl.arange(0, DP)
    total = tl.zeros([DP], tl.float64)
    weight = tl.zeros([MANY], tl.float64)
    for tile in range(begin, end, MANY):
        tiles = tile + tl.arange(0, MANY)
        here = (tiles < end)[:, None] & (d < D)[None, :]
        total += tl.sum(tl.load(partial + tiles[:, None] * WIDTH + h * D + d, mask=here, other=0.0).to(tl.float64), 0)
        if WITH_MASS:
            weight += tl.load(partial + tiles * WIDTH + H * D + h, mask=tiles < end, other=0.0).to(tl.float64)
    if WITH_MASS:
        whole = tl.sum(weight, 0)
        tl.store(mass + sequence * H + h, whole.to(mass.dtype.element_ty))
        total = total / (whole + EPS)
    tl.store(sums + (sequence * H + h) * D + d, total.to(sums.dtype.element_ty), mask=d < D)


@triton.jit
def output_kernel(
    w, mask, membership, moment, y, table, first, N, H, D,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y [B, N, H, D] = -Pi w / (1 + m)."""
    sequence, start, count = tile_at(tl.program_id(0), table, N, T, PACKED)
    w, y, membership = w + start * H * D, y + start * H * D, membership + start * H
    if MASKED:
        mask += start
    C = H * D
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < C
    gate = -1 / (1 + tl.load(moment + sequence * C + column, mask=inside, other=0.0))
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        here = real[:, None] & inside[None, :]
        x = tl.load(w + rows[:, None] * C + column[None, :], mask=here, other=0.0).to(gate.dtype)
        pi = tl.load(membership + rows[:, None] * H + (column // D)[None, :], mask=here, other=0.0)
        out = (pi * x * gate[None, :]).to(y.dtype.element_ty)
        tl.store(y + rows[:, None] * C + column[None, :], out, mask=(rows < count)[:, None] & inside[None, :])


def full(w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
    """y, membership, energy, mass, moment."""
    w, mask = w.contiguous(), None if mask is None else mask.contiguous()
    B, N, H, D = w.shape
    wide = statistics_dtype(w.dtype)
    temperature = temperature.to(wide).contiguous()
    tiles = tiles_of(w, cu_seqlens, settings.tile(w))
    y, membership = torch.empty_like(w), w.new_empty(B, N, H, dtype=wide)
    energy, moment = (w.new_empty(tiles.S, H, D, dtype=wide) for _ in range(2))
    mass = w.new_empty(tiles.S, H, dtype=wide)
    partial = w.new_empty(tiles.P, H * D + H, dtype=wide)
    shared, masked = tiles.arguments, {"MASKED": mask is not None}
    if tiles.P:
        with on_device(w):
            columns, grid = settings.columns("full energy", w, tiles)
            energy_kernel[grid](w, mask, partial, C=H * D, **shared, **masked, **columns)
            total(partial, energy, None, tiles, H * D)
            heads, grid = settings.heads("full membership", w, tiles)
            membership_kernel[grid](
                w, temperature, mask, energy, membership, partial, H=H, D=D, **shared, **masked, **heads
            )
            total(partial, moment, mass, tiles, H * D + H)
            columns, grid = settings.columns("full output", w, tiles)
            output_kernel[grid](w, mask, membership, moment, y, H=H, D=D, **shared, **masked, **columns)
    else:
        energy.zero_(), mass.zero_(), moment.zero_()
    return y, membership, energy, mass, moment


def total(partial: Tensor, sums: Tensor, mass: Tensor | None, tiles: Tiles, width: int) -> None:
    """Add up what the tiles of each sequence found."""
    S, H, D = sums.shape
    total_kernel[S, H](
        partial, sums, mass, H=H, D=D, WIDTH=width, WITH_MASS=mass is not None, **tiles.arguments, **settings.totals(D)
    )
