"""The full operator on a GPU, backward, in the closed form of docs/math.md.

Two sums over the tokens come before the gradient, so w and g are each needed three times; but the first pass can form
sum_d q w g for every token and head, which spares the second pass g. w is read three times, g twice, dw written once:
6 |w| bytes, plus 24 N H for numbers by token and head.
"""

# B batch, N tokens, H heads, D features per head, C = H*D, S sequences (or packed ones), P tiles, T tokens a tile

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tost.ops.common import FULL_FLOOR, MASS_EPS
from tost.ops.triton import settings
from tost.ops.triton.blocks import head_block, real_rows
from tost.ops.triton.tiles import on_device, tile_at, tile_range, tiles_of

FLOOR: tl.constexpr = tl.constexpr(FULL_FLOOR)
EPS: tl.constexpr = tl.constexpr(MASS_EPS)


@triton.jit
def gated_kernel(
    w, g, mask, membership, moment, inner, partial, table, first, N, H, D,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """inner [B, N, H] = sum_d q w g, and partial [P, C]: G = sum_n Pi w g over a tile."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w, g = w + start * H * D, g + start * H * D
    membership, inner = membership + start * H, inner + start * H
    if MASKED:
        mask += start
    C = H * D
    head = tl.arange(0, HP)
    feature, exists = head_block(H, D, HP, DP)
    q = 1 / (1 + tl.load(moment + sequence * C + feature, mask=exists, other=0.0))
    total = tl.zeros([HP, DP], partial.dtype.element_ty)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        here = real[:, None, None] & exists[None, :, :]
        place = rows[:, None, None] * C + feature[None, :, :]
        x = tl.load(w + place, mask=here, other=0.0).to(total.dtype)
        product = x * tl.load(g + place, mask=here, other=0.0).to(total.dtype)
        by_head = rows[:, None] * H + head[None, :]
        inside = (rows < count)[:, None] & (head < H)[None, :]
        pi = tl.load(membership + by_head, mask=inside, other=0.0)
        tl.store(inner + by_head, tl.sum(product * q[None, :, :], 2), mask=inside)
        total += tl.sum(pi[:, :, None] * product, 0)
    tl.store(partial + p.to(tl.int64) * C + feature, total, mask=exists)


@triton.jit
def pull_kernel(
    partial, moment, mass, A, B, table, first, N, H, D,
    T: tl.constexpr, PACKED: tl.constexpr, MANY: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """A [S, H, D] = q^2 G / Q and B [S, H] = sum_d A m."""
    sequence, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tile_range(sequence, first, N, T, PACKED)
    d = tl.arange(0, DP)
    G = tl.zeros([DP], tl.float64)
    for tile in range(begin, end, MANY):
        tiles = tile + tl.arange(0, MANY)
        here = (tiles < end)[:, None] & (d < D)[None, :]
        G += tl.sum(tl.load(partial + tiles[:, None] * (H * D) + h * D + d, mask=here, other=0.0).to(tl.float64), 0)
    m = tl.load(moment + (sequence * H + h) * D + d, mask=d < D, other=0.0).to(tl.float64)
    Q = tl.load(mass + sequence * H + h).to(tl.float64) + EPS
    a = G / Q / ((1 + m) * (1 + m))
    tl.store(A + (sequence * H + h) * D + d, a.to(A.dtype.element_ty), mask=d < D)
    tl.store(B + sequence * H + h, tl.sum(a * m, 0).to(B.dtype.element_ty))


@triton.jit
def couple_kernel(
    w, temperature, mask, membership, energy, A, B, inner, partial, table, first, N, H, D,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """f [B, N, H] in place of inner, and partial [P, C + H]: the sums of f w^2 / c and of the temperature's e s."""
    p = tl.program_id(0)
    sequence, start, count = tile_at(p, table, N, T, PACKED)
    w = w + start * H * D
    membership, inner = membership + start * H, inner + start * H
    if MASKED:
        mask += start
    WIDE: tl.constexpr = partial.dtype.element_ty
    C = H * D
    head = tl.arange(0, HP)
    feature, exists = head_block(H, D, HP, DP)
    inverse = 1 / tl.maximum(tl.load(energy + sequence * C + feature, mask=exists, other=1.0), FLOOR)
    a = tl.load(A + sequence * C + feature, mask=exists, other=0.0)
    b = tl.load(B + sequence * H + head, mask=head < H, other=0.0)
    t = tl.load(temperature + head, mask=head < H, other=0.0)
    dt = tl.zeros([HP], WIDE)
    pull = tl.zeros([HP, DP], WIDE)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        here = real[:, None, None] & exists[None, :, :]
        x = tl.load(w + rows[:, None, None] * C + feature[None, :, :], mask=here, other=0.0).to(WIDE)
        square = x * x
        share = square * inverse[None, :, :]
        by_head = rows[:, None] * H + head[None, :]
        inside = (rows < count)[:, None] & (head < H)[None, :]
        pi = tl.load(membership + by_head, mask=inside, other=0.0)
        u = tl.sum(square * a[None, :, :], 2) - tl.load(inner + by_head, mask=inside, other=0.0) - b[None, :]
        e = pi * (u - tl.sum(pi * u, 1)[:, None])
        f = t[None, :] * e
        tl.store(inner + by_head, f, mask=inside)
        dt += tl.sum(e * tl.sum(share, 2), 0)
        pull += tl.sum(f[:, :, None] * share, 0)
    own = partial + p.to(tl.int64) * (C + H)
    tl.store(own + feature, pull, mask=exists)
    tl.store(own + C + head, dt, mask=head < H)


@triton.jit
def gradient_kernel(
    w, g, mask, membership, energy, mass, moment, A, E, f, dw, table, first, N, H, D,
    T: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dw [B, N, H, D] = 2 w (Pi A + f/c - E) - Pi q g; E comes without its second division by c."""
    sequence, start, count = tile_at(tl.program_id(0), table, N, T, PACKED)
    w, g, dw = w + start * H * D, g + start * H * D, dw + start * H * D
    membership, f = membership + start * H, f + start * H
    if MASKED:
        mask += start
    C = H * D
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < C
    place = sequence * C + column
    energies = tl.load(energy + place, mask=inside, other=1.0)
    inverse = 1 / tl.maximum(energies, FLOOR)
    a = tl.load(A + place, mask=inside, other=0.0)
    pull = tl.where(energies >= FLOOR, tl.load(E + place, mask=inside, other=0.0) * inverse, 0.0)
    q = 1 / (1 + tl.load(moment + place, mask=inside, other=0.0))
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        real = real_rows(rows, 0, count, mask, MASKED)
        here = real[:, None] & inside[None, :]
        x = tl.load(w + rows[:, None] * C + column[None, :], mask=here, other=0.0).to(a.dtype)
        y = tl.load(g + rows[:, None] * C + column[None, :], mask=here, other=0.0).to(a.dtype)
        by_head = rows[:, None] * H + (column // D)[None, :]
        pi = tl.load(membership + by_head, mask=here, other=0.0)
        force = tl.load(f + by_head, mask=here, other=0.0)
        out = 2 * x * (pi * a[None, :] + (force * inverse[None, :] - pull[None, :])) - pi * q[None, :] * y
        out = out.to(dw.dtype.element_ty)
        tl.store(dw + rows[:, None] * C + column[None, :], out, mask=(rows < count)[:, None] & inside[None, :])


def full_backward(
    g: Tensor,
    w: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    membership: Tensor,
    energy: Tensor,
    mass: Tensor,
    moment: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients to w and temperature."""
    from tost.ops.triton.full import total

    w, g, mask = w.contiguous(), g.contiguous(), None if mask is None else mask.contiguous()
    H, D = w.shape[2:]
    wide = membership.dtype
    t = temperature.to(wide).contiguous()
    tiles = tiles_of(w, cu_seqlens, settings.tile(w))
    if not tiles.P:
        return torch.zeros_like(w), torch.zeros_like(temperature)
    dw, inner = torch.empty_like(w), torch.empty_like(membership)
    partial = w.new_empty(tiles.P, H * D + H, dtype=wide)
    A, E = torch.empty_like(energy), torch.empty_like(energy)
    B = torch.empty_like(mass)
    shared, masked = {"H": H, "D": D, **tiles.arguments}, {"MASKED": mask is not None}
    with on_device(w):
        heads, grid = settings.heads("full gated", w, tiles)
        gated_kernel[grid](w, g, mask, membership, moment, inner, partial, **shared, **masked, **heads)
        pull_kernel[tiles.S, H](partial, moment, mass, A, B, **shared, **settings.totals(D))
        heads, grid = settings.heads("full couple", w, tiles, size=8192)
        couple_kernel[grid](w, t, mask, membership, energy, A, B, inner, partial, **shared, **masked, **heads)
        total(partial, E, None, tiles, H * D + H)
        columns, grid = settings.columns("full gradient", w, tiles)
        gradient_kernel[grid](
            w, g, mask, membership, energy, mass, moment, A, E, inner, dw, **shared, **masked, **columns
        )
    return dw, partial[:, H * D :].sum(0, dtype=torch.float64).to(temperature.dtype)
