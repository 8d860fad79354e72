"""Arithmetic on integers that stand for fractions: what the int8 operator's definition and kernels share.

Every function here is exact integer arithmetic with the rounding it states, so that torch, Numba and Triton agree to
the last bit. Right shifts round down.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCORE, TEMPERATURE, LOGIT, SHARE, MEAN, ENERGY, SURVIVAL = 24, 16, 16, 20, 16, 8, 30  # fractional bits of each
OUTPUT = SHARE + 14  # of Pi q times a gate
RECIPROCAL = 24  # bits behind the point of a mantissa of 1/x
FINEST, COARSEST = -40, 15  # exponents of a scale: |w| below 2^-41 counts as 0, and |w| < 2^22 is asked for
LARGEST = 2.0 ** (COARSEST + 7)
LOG2_E = 94548  # log2(e), 16 fractional bits

# 256 steps and one more, between which is read linearly (relative error 4e-6 and 1e-6)
RECIPROCALS = [(2 * 2 ** (RECIPROCAL + 8) + d) // (2 * d) for d in range(256, 513)]  # 2^24 / (1 + j/256)
POWERS = [round(2**30 * 2 ** (-j / 256)) for j in range(257)]  # 2^30 2^(-j/256)


def bit_length(x: Tensor) -> Tensor:
    """Bits of x >= 0, int64: 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4, ..."""
    bits = torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        large = (x >> step) > 0
        bits, x = bits + step * large, torch.where(large, x >> step, x)
    return bits + x


def reciprocal(x: Tensor) -> tuple[Tensor, Tensor]:
    """(g, k) with 1/x = g 2^-(24 + k), for x >= 1, int64: k = bits - 1, g in (2^23, 2^24] from the table."""
    k = bit_length(x) - 1
    f = torch.where(k > 16, x >> (k - 16).clamp(min=0), x << (16 - k).clamp(min=0)) - 2**16
    return between(RECIPROCALS, f), k


def exp_negative(z: Tensor) -> Tensor:
    """2^30 e^-z for z >= 0 with 16 fractional bits; 0 where that is below 1."""
    v = (z * LOG2_E) >> 16
    return between(POWERS, v & 0xFFFF) >> (v >> 16).clamp(max=31)


def between(table: list[int], f: Tensor) -> Tensor:
    """A table of 257 entries read at f / 2^16 of its length, linearly between two entries."""
    entries = torch.tensor(table, device=f.device)
    j = f >> 8
    low, high = entries[j], entries[j + 1]
    return low - (((low - high) * (f & 255)) >> 8)


def shift_rounded(x: Tensor, s: Tensor) -> Tensor:
    """x / 2^s for x >= 0 and s >= 0, halves rounded up."""
    s = s.clamp(max=62)
    return (x + ((1 << s) >> 1)) >> s


def decayed(x: Tensor, survival: Tensor) -> Tensor:
    """x * survival / 2^30 for x >= 0, rounded: the low 30 bits of x apart, so that nothing overflows."""
    return (x >> 30) * survival + (((x & (2**30 - 1)) * survival + 2**29) >> 30)
