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
def real_rows(rows, start, end, mask, MASKED: tl.constexpr):
    """Which of these rows are tokens that count."""
    real = (rows >= start) & (rows < end)
    if MASKED:
        real = real & (tl.load(mask + rows, mask=real, other=0) != 0)
    return real


@triton.jit
def load_token(w, row, start, end, mask, C, feature, exists, MASKED: tl.constexpr):
    """One token [HP, DP] in w's type, zero if it does not count, and whether it does. Kernels that take one token after
    another load the next before they work on this one: memory answers meanwhile."""
    real = real_rows(row + tl.arange(0, 1), start, end, mask, MASKED)
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
