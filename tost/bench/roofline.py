"""What must be moved and computed: bytes and floating-point operations of a call, by contestant.

In units of W = B N H D elements; weights per token and head, statistics and states are left out, being 1/D of that or
less.  Backward passes are in addition to the forward.

    bytes, in elements moved            forward                              backward
    tost, one piece of work a pass      4 W  w read 3 times, y written       6 W  w 3 and g 2 times read, dw written
    tost on the cpu, causal             2 W  w read once, y written          3 W  w and g read once, dw written
    softmax, fused                      4 W  q, k, v read, y written         9 W  q, k, v, g read, dq, dk, dv written,
                                                                                 g, y read for their product
    softmax, unfused                    4 W + 6 S, S = B H N^2               8 W + 9 S
    clone, copy                         2 W                                  3 W  (w * g)

    operations                          forward                              backward
    tost, full                          10 W                                 24 W
    tost, causal                        11 W                                 36 W
    softmax                             4 S D (causal fused: half)           2.5 times the forward's (unfused: 2 times)
    xca, linear (full)                  4 W D                                8 W D
"""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from typing import NamedTuple

from tost.bench.contestants import CONTESTANTS, SOFTMAX, Case
from tost.bench.settings import DTYPES


class Work(NamedTuple):
    """Bytes that must move and operations that must be done; None where a contestant's are not stated."""

    bytes: float | None
    flops: float | None


def work(name: str, case: Case) -> Work:
    """What one call of a contestant needs."""
    W, size = case.B * case.N * case.H * case.D, DTYPES[case.dtype].itemsize
    S = case.B * case.H * case.N**2
    moved: float | None = None
    flops: float | None = None
    if name in ("clone", "copy"):
        moved, flops = (5 if case.train else 2) * W, (1 if case.train else 0) * W
    elif CONTESTANTS[name].kind == "ours" and name != "eager":
        once = case.op == "causal" and name == "cpu"
        moved = (2 if once else 4) * W + case.train * (3 if once else 6) * W
        forward, backward = (10, 24) if case.op == "full" else (11, 36)
        flops = (forward + case.train * backward) * W
    elif name in SOFTMAX:
        fused = name not in ("softmax", "sdpa_math")
        moved = (4 + case.train * (9 if fused else 8)) * W + (0 if fused else (6 + case.train * 9) * S)
        half = 0.5 if fused and case.op == "causal" else 1.0
        flops = half * 4 * S * case.D * (1 + case.train * (2.5 if fused else 2.0))
    elif case.op == "full" and name in ("xca", "linear"):
        flops = (12 if case.train else 4) * W * case.D
    return Work(None if moved is None else size * moved, flops)


def decode_bytes(batch: int, heads: int, features: int) -> int:
    """Bytes of one causal step that must move: the state, in float64, read and written; the token is small."""
    return 2 * 8 * batch * heads * (2 * features + 1)
