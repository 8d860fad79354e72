"""What the kernels share: how sequences, rows and scratch memory are laid out, and the softmax over heads."""

# S sequences, R rows = tokens of all sequences, H heads, D features per head, C = H*D; a block is 16 rows

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

from tost.ops.cpu.simd import (
    LANES,
    exp_negative,
    get,
    larger,
    load,
    pointer,
    prefetch,
    put,
    read,
    spread,
    store,
    widen,
    write,
)

BLOCK = LANES  # rows: one lane each in the softmax over heads
FLOAT64, INT64, FLAG = np.float64(0), np.int64(0), np.uint8(0)  # tags
NOTHING, ONE = np.int64(0), np.int64(1)  # a literal in a call would make Numba compile the callee once more

# A call is a row of int64 numbers: these, then the addresses and sizes of the kernel (from OWN on).
(
    SEQUENCES,
    TOKENS,
    BOUNDS,
    NUMBERS,
    UNIT,
    LARGE,
    PASSES,
    FIRST,
    STOP,
    WORKERS,
    COUNTER,
    SCRATCH,
    WORDS,
    KERNEL,
    REGION,
    TEAM,
    RANK,
    MEMBERS,
    PASS,
    SEQUENCE,
    OWN,
) = (np.int64(i) for i in range(21))

# Called by other kernels only. Each function is optimised on its own and again in its callers: few layers compile fast.
jit: Any = numba.njit
device = jit(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
layer = jit(error_model="numpy", inline="always")


@register_jitable
def padded(count):
    """Rounded up to whole vectors."""
    return (count + LANES - 1) // LANES * LANES


@device
def first_row(call, s):
    """Where sequence s begins; a dense batch has no bounds, its sequences have the same number of rows each."""
    bounds = get(call, BOUNDS)
    return s * get(call, TOKENS) if bounds == 0 else get(pointer(bounds, INT64), s)


@device
def real_rows(mask, start, stop, rows):
    """Lists the rows that are not masked and returns their number: further on, masked tokens do not exist."""
    if mask == 0:
        for r in range(start, stop):
            put(rows, r - start, r)
        return stop - start
    count = 0
    flags = pointer(mask, FLAG)
    for r in range(start, stop):
        if get(flags, r) != 0:
            put(rows, count, r)
            count += 1
    return count


@device
def gather_head(numbers, soon, rows, count, h, H, D, head):
    """head [BLOCK, D padded] = one head of a block's rows, side by side: rows some kB apart would fight for cache.

    The same places of `soon` are asked for ahead of their use: the processor foresees only reads in order.
    """
    Dp = padded(D)
    for k in range(count):
        at = (get(rows, k) * H + h) * D
        for c in range(0, D, LANES):
            prefetch(soon, at + c)
            store(head, k * Dp + c, read(numbers, at + c, D - c))


@device
def softmax_heads(score, temperature, H):
    """Scores [H, BLOCK] become memberships, in place, for all rows of a block at once."""
    top = load(score, 0) * get(temperature, 0)
    for h in range(H):
        scaled = load(score, h * LANES) * get(temperature, h)
        top = larger(top, scaled)
        store(score, h * LANES, scaled)
    together = spread(0.0, get(temperature, 0))
    for h in range(H):
        part = exp_negative(load(score, h * LANES) - top)
        together = together + part
        store(score, h * LANES, part)
    for h in range(H):
        store(score, h * LANES, load(score, h * LANES) / together)


@device
def add_to(numbers, i, more):
    """numbers[i] += more."""
    put(numbers, i, get(numbers, i) + more)


@device
def clear(numbers, count):
    """Zeros."""
    for i in range(count):
        put(numbers, i, 0.0)


@device
def clear_rows(y, mask, start, stop, C, one):
    """Zeros in the masked rows."""
    for r in range(start, stop):
        if get(pointer(mask, FLAG), r) == 0:
            for i in range(0, C, LANES):
                write(y, r * C + i, spread(0.0, one), C - i)


@device
def flush(run, sums, count):
    """Adds a run's sums to the float64 ones and starts the next run."""
    for i in range(0, count, LANES):
        store(sums, i, load(sums, i) + widen(load(run, i)))
        store(run, i, spread(0.0, get(run, 0)))


@device
def collect(sums, parts, apart, count, members):
    """Sums of the members' float64 parts, which lie `apart` slots from one another; always in the same order."""
    clear(sums, count)
    for member in range(members):
        part = parts + apart * member
        for i in range(count):
            put(sums, i, get(sums, i) + get(part, i))
