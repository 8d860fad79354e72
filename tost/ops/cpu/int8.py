"""The int8 operators as compiled loops on the CPU (Numba), the same integers as int8_reference.py.

The full form reads w twice, for the scales and to quantise it, and from then on bytes. Sequences are shared among
threads; within one everything is a single thread's.
"""

# S sequences, R rows = tokens of all of them, H heads, D features per head

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from tost.ops import fixed_point as fp

FINEST, LOG2_E = fp.FINEST, fp.LOG2_E
RECIPROCALS, POWERS = np.array(fp.RECIPROCALS), np.array(fp.POWERS)
DOWN = fp.SCORE + fp.TEMPERATURE - fp.LOGIT
SCORED = fp.RECIPROCAL - fp.SCORE - fp.ENERGY
SHARED, MEAN, ENERGY, OUTPUT = fp.RECIPROCAL - fp.SHARE, fp.MEAN, fp.ENERGY, fp.OUTPUT
AVERAGED = fp.RECIPROCAL - fp.MEAN
WORTHWHILE = 2**15  # numbers a thread should have to do

device = numba.njit(error_model="numpy")


@intrinsic
def leading_zeros(context, x):
    """Of an int64, by the processor's own instruction."""

    def build(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), build


@device
def between(table, f):
    j = f >> 8
    return table[j] - (((table[j] - table[j + 1]) * (f & 255)) >> 8)


@device
def reciprocal(x):
    zeros = leading_zeros(x)
    return between(RECIPROCALS, ((x << zeros) >> 47) & 65535), 63 - zeros


@device
def shift_rounded(x, s):
    s = min(s, 62)
    return (x + ((np.int64(1) << s) >> 1)) >> s


@device
def decayed(x, survival):
    return (x >> 30) * survival + (((x & 0x3FFFFFFF) * survival + 0x20000000) >> 30)


@device
def exponent_of(bits, D):
    top = np.int32(0)
    for d in range(D):
        top = max(top, bits[d] & np.int32(0x7FFFFFFF))
    return max((np.int64(top) >> 23) - 133, FINEST)


@device
def quantize(x, factor):
    return np.int64(min(max(np.rint(x * factor), np.float32(-127)), np.float32(127)))


@device
def memberships(score, temperature, share, H):
    """share [H] from score [H]."""
    highest = np.int64(-(2**62))
    for h in range(H):
        share[h] = (score[h] * temperature[h] + (1 << (DOWN - 1))) >> DOWN
        highest = max(highest, share[h])
    whole = np.int64(0)
    for h in range(H):
        v = ((highest - share[h]) * LOG2_E) >> 16
        share[h] = between(POWERS, v & 65535) >> min(v >> 16, 31)
        whole += share[h]
    g, k = reciprocal(whole)
    for h in range(H):
        share[h] = shift_rounded(share[h] * g, k + SHARED)


@device
def mean_of(moment, g, k):
    kept = min(k, 20)
    return ((moment >> (k - kept)) * g) >> (kept + AVERAGED)


@device
def gate_of(m, exponent):
    double = 2 * exponent
    inside = (1 << MEAN) + (m << double if double > 0 else m >> min(-double, 62))
    g, k = reciprocal(inside)
    return g << 6, exponent - k


@device
def requantize(v, common, values, scale, r, H, D):
    """Row r of values and scale from v [H, D]."""
    top = np.int64(0)
    for h in range(H):
        row = v[h]
        for d in range(D):
            top = max(top, abs(row[d]))
    down = max(57 - leading_zeros(top), 0)
    half = (np.int64(1) << down) >> 1
    for h in range(H):
        row, out = v[h], values[r, h]
        for d in range(D):
            size = min((abs(row[d]) + half) >> down, 127)
            out[d] = size if row[d] < 0 else -size
    scale[r] = 2.0 ** (down + common - OUTPUT) if top > 0 else 1.0


def full_rows(w, bits, temperature, real, bounds, first, last, values, scale):
    """`full` for sequences first..last; values doubles as the place where q waits."""
    H, D = w.shape[1:]
    exponent, factor = np.empty(H, np.int64), np.empty(H, np.float32)
    energy, moment = np.empty((H, D), np.int64), np.empty((H, D), np.int64)
    mass, score, share = np.empty(H, np.int64), np.empty(H, np.int64), np.empty(H, np.int64)
    g, place, v = np.empty((H, D), np.int64), np.empty((H, D), np.int64), np.empty((H, D), np.int64)
    for s in range(first, last):
        start, stop = bounds[s], bounds[s + 1]
        shares = np.zeros((stop - start, H), np.int64)
        exponent[:], energy[:], moment[:], mass[:] = FINEST, 0, 0, 0
        for r in range(start, stop):
            if len(real) == 0 or real[r]:
                for h in range(H):
                    exponent[h] = max(exponent[h], exponent_of(bits[r, h], D))
        for h in range(H):
            factor[h] = np.float32(2.0 ** -exponent[h])
        for r in range(start, stop):
            if len(real) == 0 or real[r]:
                for h in range(H):
                    x, own, a = w[r, h], values[r, h], energy[h]
                    for d in range(D):
                        q = quantize(x[d], factor[h])
                        own[d] = q
                        a[d] += q * q
        for h in range(H):
            for d in range(D):
                g[h, d], k = reciprocal(max(energy[h, d] << ENERGY, 1))
                place[h, d] = max(k + SCORED, 0)
        for r in range(start, stop):
            if len(real) == 0 or real[r]:
                for h in range(H):
                    own, inverse, at = values[r, h], g[h], place[h]
                    total = np.int64(0)
                    for d in range(D):
                        q = np.int64(own[d])
                        total += (q * q * inverse[d]) >> at[d]
                    score[h] = total
                memberships(score, temperature, share, H)
                for h in range(H):
                    shares[r - start, h] = share[h]
                    mass[h] += share[h]
                    own, M, pi = values[r, h], moment[h], share[h]
                    for d in range(D):
                        q = np.int64(own[d])
                        M[d] += pi * q * q
        common = np.int64(-(2**30))
        for h in range(H):
            whole, k = reciprocal(max(mass[h], 1))
            for d in range(D):
                g[h, d], place[h, d] = gate_of(mean_of(moment[h, d], whole, k), exponent[h])
                common = max(common, place[h, d])
        for h in range(H):
            for d in range(D):
                g[h, d] >>= min(common - place[h, d], 62)
        for r in range(start, stop):
            if len(real) == 0 or real[r]:
                for h in range(H):
                    own, gate, out, pi = values[r, h], g[h], v[h], shares[r - start, h]
                    for d in range(D):
                        out[d] = pi * own[d] * gate[d]
                requantize(v, common, values, scale, r, H, D)


def causal_rows(
    w, bits, temperature, bias, survival, real, bounds, exponents, energy, moment, mass, first, last, values, scale
):
    """`causal` for sequences first..last."""
    H, D = w.shape[1:]
    score, share = np.empty(H, np.int64), np.empty(H, np.int64)
    q, g = np.empty((H, D), np.int64), np.empty((H, D), np.int64)
    place = np.empty((H, D), np.int64)
    for s in range(first, last):
        for r in range(bounds[s], bounds[s + 1]):
            if len(real) > 0 and not real[r]:
                continue
            for h in range(H):
                a, M, x, own = energy[s, h], moment[s, h], w[r, h], q[h]
                if len(survival) > 0:
                    mass[s, h] = decayed(mass[s, h], survival[h])
                    for d in range(D):
                        a[d], M[d] = decayed(a[d], survival[h]), decayed(M[d], survival[h])
                larger = max(exponents[s, h], exponent_of(bits[r, h], D))
                coarser, exponents[s, h] = 2 * (larger - exponents[s, h]), larger
                if coarser > 0:
                    for d in range(D):
                        a[d], M[d] = shift_rounded(a[d], coarser), shift_rounded(M[d], coarser)
                factor = np.float32(2.0**-larger)
                total = np.int64(0)
                for d in range(D):
                    own[d] = quantize(x[d], factor)
                    square = own[d] * own[d]
                    a[d] += square << ENERGY
                    inverse, k = reciprocal(max(a[d], 1))
                    total += (square * inverse) >> max(k + SCORED, 0)
                score[h] = total + bias[r, h] if len(bias) > 0 else total
            memberships(score, temperature, share, H)
            common = np.int64(-(2**30))
            for h in range(H):
                M, own, gate, at = moment[s, h], q[h], g[h], place[h]
                pi, exponent = share[h], exponents[s, h]
                mass[s, h] += pi
                whole, k = reciprocal(max(mass[s, h], 1))
                for d in range(D):
                    M[d] += pi * own[d] * own[d]
                    gate[d], at[d] = gate_of(mean_of(M[d], whole, k), exponent)
                    common = max(common, at[d])
            for h in range(H):
                own, gate, at = q[h], g[h], place[h]
                pi = share[h]
                for d in range(D):
                    own[d] = pi * own[d] * (gate[d] >> min(common - at[d], 62))
            requantize(q, common, values, scale, r, H, D)


_compiled: dict[str, Any] = {}
_lock = threading.RLock()


def compiled(kernel: Callable[..., None]) -> Any:
    """The kernel, compiled at its first use and kept on disk where there is a place for it."""
    with _lock:
        if kernel.__name__ not in _compiled:
            try:
                made = numba.njit(cache=True, nogil=True, error_model="numpy")(kernel)
            except RuntimeError as error:
                if "locator" not in str(error):
                    raise
                made = numba.njit(nogil=True, error_model="numpy")(kernel)
            _compiled[kernel.__name__] = made
        return _compiled[kernel.__name__]


def run(kernel: Callable[..., None], rows: Tensor, before: list[Any], bounds: np.ndarray) -> tuple[Tensor, Tensor]:
    """(values, scale) by kernel(*before, first, last, values, scale), its sequences shared among torch's threads."""
    values, scale = torch.zeros_like(rows, dtype=torch.int8), torch.ones(len(rows))
    call, S = compiled(kernel), len(bounds) - 1
    share = max(1, min(torch.get_num_threads(), S, rows.numel() // WORTHWHILE))
    cuts = [S * i // share for i in range(share + 1)]
    jobs = [(*before, start, stop, values.numpy(), scale.numpy()) for start, stop in zip(cuts, cuts[1:])]
    if share == 1:
        call(*jobs[0])
    else:
        with ThreadPoolExecutor(share) as pool:
            list(pool.map(lambda job: call(*job), jobs))
    return values, scale


def array(x: Tensor | None, *shape: int, dtype: Any = np.int64) -> np.ndarray:
    """x for a kernel, nothing of that many axes for None."""
    return np.zeros(shape, dtype) if x is None else x.contiguous().numpy()


def full(w: Tensor, temperature: Tensor, real: Tensor | None, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """int8_reference.full."""
    w = w.detach()
    places = bounds.contiguous().numpy()
    given = [w.numpy(), w.view(torch.int32).numpy(), array(temperature), array(real, 0, dtype=np.bool_), places]
    return run(full_rows, w, given, places)


def causal(
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    survival: Tensor | None,
    real: Tensor | None,
    bounds: Tensor,
    exponent: Tensor,
    energy: Tensor,
    moment: Tensor,
    mass: Tensor,
) -> tuple[Tensor, Tensor]:
    """int8_reference.causal; the state's tensors, contiguous, are written in place."""
    w = w.detach()
    places = bounds.contiguous().numpy()
    given = [w.numpy(), w.view(torch.int32).numpy(), array(temperature), array(bias, 0, 1), array(survival, 0)]
    given += [array(real, 0, dtype=np.bool_), places, *(part.numpy() for part in (exponent, energy, moment, mass))]
    return run(causal_rows, w, given, places)
