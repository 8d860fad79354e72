"""The full int8 operator on a GPU, the same integers as int8_reference.py: one program a sequence, w read four times.

All sums are integers, so their order is free. The causal form runs as the definition.
"""

# S sequences, R rows = tokens of all of them, H heads, D features per head, HP and DP: padded to powers of two

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tost.ops import fixed_point as fp
from tost.ops.int8_reference import causal
from tost.ops.triton.blocks import head_block, real_rows
from tost.ops.triton.sizes import padded
from tost.ops.triton.tiles import on_device

__all__ = ["causal", "full"]

FINEST = tl.constexpr(fp.FINEST)
LOG2_E = tl.constexpr(fp.LOG2_E)
DOWN = tl.constexpr(fp.SCORE + fp.TEMPERATURE - fp.LOGIT)
HALF = tl.constexpr(1 << (fp.SCORE + fp.TEMPERATURE - fp.LOGIT - 1))
SCORED = tl.constexpr(fp.RECIPROCAL - fp.SCORE - fp.ENERGY)
SHARED = tl.constexpr(fp.RECIPROCAL - fp.SHARE)
AVERAGED = tl.constexpr(fp.RECIPROCAL - fp.MEAN)
ONE, ENERGY = tl.constexpr(1 << fp.MEAN), tl.constexpr(fp.ENERGY)
BIAS = tl.constexpr(127 - fp.OUTPUT)  # of the exponent in a float32's bits
EVEN = tl.constexpr(1.5 * 2**23)  # added and taken away again it rounds a float32 below 2^22 to even


@triton.jit
def shorten(x, n, STEP: tl.constexpr):
    large = (x >> STEP) > 0
    return tl.where(large, x >> STEP, x), n + large.to(tl.int64) * STEP


@triton.jit
def bit_length(x):
    x, n = shorten(x, tl.zeros_like(x), 32)
    x, n = shorten(x, n, 16)
    x, n = shorten(x, n, 8)
    x, n = shorten(x, n, 4)
    x, n = shorten(x, n, 2)
    x, n = shorten(x, n, 1)
    return n + x


@triton.jit
def between(table, f):
    j = f >> 8
    low = tl.load(table + j)
    return low - (((low - tl.load(table + j + 1)) * (f & 255)) >> 8)


@triton.jit
def reciprocal(x, table):
    k = bit_length(x) - 1
    f = tl.where(k > 16, x >> tl.maximum(k - 16, 0), x << tl.maximum(16 - k, 0)) - 65536
    return between(table, f), k


@triton.jit
def shift_rounded(x, s):
    s = tl.minimum(s, 62)
    return (x + ((tl.full(s.shape, 1, tl.int64) << s) >> 1)) >> s


@triton.jit
def load_bits(bits, rows, start, C, feature, here):
    """|w| as the integer of its bits, which grows with it."""
    at = (start + rows)[:, None, None] * C + feature[None, :, :]
    return tl.load(bits + at, mask=here, other=0) & 0x7FFFFFFF


@triton.jit
def load_q(w, rows, start, C, feature, here, factor):
    at = (start + rows)[:, None, None] * C + feature[None, :, :]
    x = tl.load(w + at, mask=here, other=0.0) * factor[None, :, None]
    return tl.minimum(tl.maximum((x + EVEN) - EVEN, -127.0), 127.0).to(tl.int64)


@triton.jit
def full_kernel(
    w, bits, temperature, real, bounds, factors, reciprocals, powers, share, values, scale, H, D,
    MASKED: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """share [R, H], values [R, H, D] and scale [R] of sequence s.  factors: [2^-(FINEST + i)] float32."""
    s = tl.program_id(0)
    start, count = tl.load(bounds + s), (tl.load(bounds + s + 1) - tl.load(bounds + s)).to(tl.int32)
    C = H * D
    head = tl.arange(0, HP)
    feature, exists = head_block(H, D, HP, DP)
    if MASKED:
        real += start
    top = tl.zeros([HP], tl.int32)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        here = real_rows(rows, 0, count, real, MASKED)[:, None, None] & exists[None, :, :]
        top = tl.maximum(top, tl.max(tl.max(load_bits(bits, rows, start, C, feature, here), 2), 0))
    exponent = tl.maximum((top.to(tl.int64) >> 23) - 133, FINEST)
    factor = tl.load(factors + (exponent - FINEST))

    energy = tl.zeros([HP, DP], tl.int64)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        here = real_rows(rows, 0, count, real, MASKED)[:, None, None] & exists[None, :, :]
        q = load_q(w, rows, start, C, feature, here, factor)
        energy += tl.sum(q * q, 0)
    g, k = reciprocal(tl.maximum(energy << ENERGY, 1), reciprocals)
    place = tl.maximum(k + SCORED, 0)

    t = tl.load(temperature + head, mask=head < H, other=0)
    mass, moment = tl.zeros([HP], tl.int64), tl.zeros([HP, DP], tl.int64)
    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        counts = real_rows(rows, 0, count, real, MASKED)
        q = load_q(w, rows, start, C, feature, counts[:, None, None] & exists[None, :, :], factor)
        score = tl.sum((q * q * g[None, :, :]) >> place[None, :, :], 2)
        logits = (score * t[None, :] + HALF) >> DOWN
        logits = tl.where((head < H)[None, :], logits, -(2**40))
        v = ((tl.max(logits, 1)[:, None] - logits) * LOG2_E) >> 16
        power = tl.where((head < H)[None, :], between(powers, v & 65535) >> tl.minimum(v >> 16, 31), 0)
        whole, bits_of = reciprocal(tl.sum(power, 1)[:, None], reciprocals)
        pi = tl.where(counts[:, None], shift_rounded(power * whole, bits_of + SHARED), 0)
        own = (start + rows)[:, None] * H + head[None, :]
        tl.store(share + own, pi, mask=counts[:, None] & (head < H)[None, :])
        mass += tl.sum(pi, 0)
        moment += tl.sum(pi[:, :, None] * q * q, 0)

    whole, k = reciprocal(tl.maximum(mass, 1)[:, None], reciprocals)
    kept = tl.minimum(k, 20)
    m = ((moment >> (k - kept)) * whole) >> (kept + AVERAGED)
    double = (2 * exponent)[:, None]
    coarse, fine = m << tl.maximum(double, 0), m >> tl.minimum(tl.maximum(-double, 0), 62)
    g, k = reciprocal(tl.where(double > 0, coarse, fine) + ONE, reciprocals)
    place = tl.where(exists, exponent[:, None] - k, -(2**30))
    common = tl.max(tl.max(place, 1), 0)
    gate = (g << 6) >> tl.minimum(common - place, 62)

    for row in range(0, count, ROWS):
        rows = row + tl.arange(0, ROWS)
        counts = real_rows(rows, 0, count, real, MASKED)
        here = counts[:, None, None] & exists[None, :, :]
        q = load_q(w, rows, start, C, feature, here, factor)
        own = (start + rows)[:, None] * H + head[None, :]
        pi = tl.load(share + own, mask=counts[:, None] & (head < H)[None, :], other=0)
        v = pi[:, :, None] * q * gate[None, :, :]
        highest = tl.max(tl.max(tl.abs(v), 2), 1)
        down = tl.maximum(bit_length(highest) - 7, 0)
        size = tl.minimum(shift_rounded(tl.abs(v), down[:, None, None] + tl.zeros_like(v)), 127)
        out = tl.where(v < 0, size, -size).to(tl.int8)
        tl.store(values + (start + rows)[:, None, None] * C + feature[None, :, :], out, mask=here)
        step = tl.where(highest > 0, ((down + common + BIAS) << 23).to(tl.int32), 127 << 23)
        tl.store(scale + start + rows, step, mask=counts)


def full(w: Tensor, temperature: Tensor, real: Tensor | None, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """int8_reference.full."""
    w = w.detach()
    R, H, D = w.shape
    values, scale = torch.zeros_like(w, dtype=torch.int8), torch.ones(R, device=w.device)
    share = torch.zeros(R, H, dtype=torch.int64, device=w.device)
    reciprocals, powers = (torch.tensor(table, device=w.device) for table in (fp.RECIPROCALS, fp.POWERS))
    factors = torch.tensor([2.0**-e for e in range(fp.FINEST, fp.COARSEST + 1)], device=w.device)
    HP, DP = padded(H), padded(D)
    rows = max(1, min(16, 2**12 // (HP * DP)))
    with on_device(w):
        full_kernel[(len(bounds) - 1,)](
            w, w.view(torch.int32), temperature, real, bounds.contiguous(), factors, reciprocals, powers, share, values,
            scale.view(torch.int32), H, D, MASKED=real is not None, ROWS=rows, HP=HP, DP=DP, enable_fp_fusion=False,
        )  # fmt: skip
    return values, scale
