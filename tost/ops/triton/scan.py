"""The second level of the causal scan: what reaches every tile from the tiles before it (or after it, in reverse)."""

# H heads, D features per head, S sequences (B, or the packed ones), P tiles, WIDTH columns of numbers by tile

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tost.ops.triton import settings
from tost.ops.triton.blocks import running
from tost.ops.triton.tiles import Tiles, tile_range


@triton.jit
def scan_kernel(
    found, counts, rates, entering, entry, leaving, table, first, N, D, WIDTH, COLUMNS,
    T: tl.constexpr, PACKED: tl.constexpr, PARTS: tl.constexpr, GATED: tl.constexpr, ENTRY: tl.constexpr,
    REVERSE: tl.constexpr, MANY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """entering [P PARTS, COLUMNS of WIDTH] from found, alike: h_p = l^n h_{p-1} + found_{p-1}, h_0 = entry, in float64.

    Tiles may have several parts. counts [P PARTS] are the tokens n of each, rates [H] the base-2 logarithms of l;
    column c belongs to head c // D. leaving [S, COLUMNS] is what comes out of the last one.
    """
    sequence = tl.program_id(0).to(tl.int64)
    begin, end = tile_range(sequence, first, N, T, PACKED)
    begin, end = begin * PARTS, end * PARTS
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    carry = tl.zeros([BLOCK], tl.float64)
    leave = tl.zeros([BLOCK], tl.float64)
    if ENTRY:
        carry += tl.load(entry + sequence * COLUMNS + column, mask=inside, other=0.0).to(tl.float64)
    if GATED:
        rate = tl.load(rates + column // D, mask=inside, other=0.0).to(tl.float64)
    order = tl.arange(0, MANY)
    count = end - begin
    for step in range(0, count + 1, MANY):  # the place after the last tile receives what leaves it
        place = step + order
        if REVERSE:
            tile = end - 1 - place
            source = tile + 1
        else:
            tile = begin + place
            source = tile - 1
        fed = (place > 0) & (place <= count)
        here = fed[:, None] & inside[None, :]
        x = tl.load(found + source[:, None] * WIDTH + column[None, :], mask=here, other=0.0).to(tl.float64)
        if GATED:
            tokens = tl.load(counts + source, mask=fed, other=0).to(tl.float64)
            gate = tl.exp2(rate[None, :] * tokens[:, None])
            x = tl.where((order == 0)[:, None], x + gate * carry[None, :], x)
            h = running(x, gate, True, False)
        else:
            h = running(x, x, False, False) + carry[None, :]
        out = h.to(entering.dtype.element_ty)
        tl.store(
            entering + tile[:, None] * WIDTH + column[None, :], out, mask=(place < count)[:, None] & inside[None, :]
        )
        leave += tl.sum(tl.where((place == count)[:, None], h, 0.0), 0)
        carry = tl.sum(tl.where((order == MANY - 1)[:, None], h, 0.0), 0)
    tl.store(leaving + sequence * COLUMNS + column, leave, mask=inside)


def scan(
    found: Tensor,
    entering: Tensor,
    entry: Tensor | None,
    leaving: Tensor,
    tiles: Tiles,
    counts: Tensor,
    rates: Tensor | None,
    D: int,
    parts: int = 1,
    reverse: bool = False,
) -> None:
    """Columns of found and entering [P parts, WIDTH] (views), entry and leaving [S, ...] float64."""
    columns = leaving[0].numel()
    options = settings.scan(columns)
    scan_kernel[tiles.S, triton.cdiv(columns, options["BLOCK"])](
        found, counts, rates, entering, entry, leaving, D=D, WIDTH=found.stride(0), COLUMNS=columns,
        GATED=rates is not None, ENTRY=entry is not None, REVERSE=reverse, PARTS=parts, **options,
        **tiles.arguments,
    )  # fmt: skip
