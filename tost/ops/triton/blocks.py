"""Pieces that several kernels share: rows of tokens, the softmax over heads, running sums along a tile."""

# H heads, D features per head, R rows (tokens), HP and DP: H and D padded to powers of two

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def head_block(H, D, HP: tl.constexpr, DP: tl.constexpr):
    """Offsets [HP, DP] of one token's features, and which of them exist."""
    h = tl.arange(0, HP)[:, None]
    d = tl.arange(0, DP)[None, :]
    return h * D + d, (h < H) & (d < D)


@triton.jit
def lane_block(D, LANES: tl.constexpr, EACH: tl.constexpr):
    """Offsets [LANES, EACH] of one head's features, and which of them exist. With as many lanes as a warp has, a block
    [ROWS, LANES, EACH] keeps all rows of a feature in one thread, where a running sum is an addition a row."""
    feature = tl.arange(0, LANES)[:, None] * EACH + tl.arange(0, EACH)[None, :]
    return feature, feature < D


@triton.jit
def real_rows(rows, begin, end, mask, MASKED: tl.constexpr):
    """Which of these rows of a tile, counted from its first, lie in [begin, end) and are tokens that count."""
    real = (rows >= begin) & (rows < end)
    if MASKED:
        real = real & (tl.load(mask + rows, mask=real, other=0) != 0)
    return real


@triton.jit
def load_token(w, row, count, mask, C, feature, exists, MASKED: tl.constexpr):
    """One token [HP, DP] in w's type, zero if it does not count, and whether it does. Kernels that take one token after
    another load the next before they work on this one: memory answers meanwhile."""
    real = real_rows(row + tl.arange(0, 1), 0, count, mask, MASKED)
    return tl.load(w + row * C + feature, mask=exists & real[:, None], other=0.0), real


@triton.jit
def softmax_heads(logits, exists, AXIS: tl.constexpr):
    """Softmax over the heads that exist."""
    logits = tl.where(exists, logits, float("-inf"))
    top = tl.expand_dims(tl.max(logits, AXIS), AXIS)
    weights = tl.exp(logits - top)
    return weights / tl.expand_dims(tl.sum(weights, AXIS), AXIS)


@triton.jit
def _follow(gate_a, sum_a, gate_b, sum_b):
    return gate_a * gate_b, sum_b + gate_b * sum_a


@triton.jit
def running(x, gate, GATED: tl.constexpr, REVERSE: tl.constexpr):
    """Running sums along the first axis, h_t = gate_t h_{t-1} + x_t (reverse: from the last row on)."""
    if GATED:
        gates, sums = tl.associative_scan((gate, x), 0, _follow, reverse=REVERSE)
        return sums
    return tl.cumsum(x, 0, reverse=REVERSE)


@triton.jit
def spread(gate, like):
    """A gate by row [ROWS] as [ROWS, LANES, EACH], where `running` needs it as large as what it sums."""
    return gate[:, None, None] + tl.zeros_like(like)


@triton.jit
def gates(decay, rates, real, h, WIDE: tl.constexpr, GATED: tl.constexpr):
    """By row of a block: what survives the step to it, all steps to it from before the block, and all steps behind it
    to the block's end; and what survives the whole block."""
    ones = tl.where(real, 1.0, 1.0).to(WIDE)
    if GATED:
        rate = tl.load(rates + h)
        one = real.to(tl.int32)
        gate = tl.where(real, tl.load(decay + h), ones)
        through = tl.exp2(rate * tl.cumsum(one, 0).to(WIDE))
        reach = tl.exp2(rate * (tl.cumsum(one, 0, reverse=True) - one).to(WIDE))
        return gate, through, reach, tl.exp2(rate * tl.sum(one, 0).to(WIDE))
    return ones, ones, ones, 1.0
