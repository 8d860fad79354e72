"""Who works on what: sequences and shares of sequences, dealt out to threads.

A kernel is a C function of (call, number, s, start, stop, worker, group, members): pass `number` over rows start..stop of
sequence s, whose other rows are with workers group .. group + members - 1, if there are others. `call` is the address of
the call's numbers, first those named below, then the kernel's own. So the loops over threads are compiled once, not once
for every kernel and storage type.
"""

# S sequences, R rows = tokens of all sequences, C numbers a row

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tost.ops.cpu.blocks import (
    COUNTER, FIRST, INT64, NUMBERS, PASSES, SEQUENCES, STOP, UNIT, WORKERS, device, first_row,
)
from tost.ops.cpu.simd import claim, get, pointer, put

SMALL = 1 << 15  # numbers: a shorter sequence is not worth the barriers between threads
SIGNATURE = types.void(*[types.int64] * 8)


@intrinsic
def run(typing: Any, kernel: Any, *arguments: Any) -> Any:
    """Calls the kernel at an address."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 8)
        parts = [builder.extract_value(args[1], i) for i in range(8)]
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), parts)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, 8)), emit


@device
def is_cut(call, s):
    """Whether all workers share this sequence, because one of them alone would be the last to finish."""
    workers = get(call, WORKERS)
    rows = first_row(call, s + 1) - first_row(call, s)
    return workers > 1 and rows * workers > first_row(call, get(call, SEQUENCES)) and rows * get(call, NUMBERS) >= SMALL


@device
def work(kernel, address, number, s, worker):
    """One worker's share of sequence s, a run of whole units, or (s = S) whole sequences until none is left."""
    call = pointer(address, INT64)
    if s < get(call, SEQUENCES):
        start, stop = first_row(call, s), first_row(call, s + 1)
        workers, unit = get(call, WORKERS), get(call, UNIT)
        units = (stop - start + unit - 1) // unit
        low = min(start + units * worker // workers * unit, stop)
        high = min(start + units * (worker + 1) // workers * unit, stop)
        run(kernel, address, number, s, low, high, worker, 0, workers)
        return
    mine = claim(call + COUNTER)
    while mine < s:
        if not is_cut(call, mine):
            for whole in range(get(call, FIRST), get(call, STOP)):
                run(kernel, address, whole, mine, first_row(call, mine), first_row(call, mine + 1), worker, worker, 1)
        mine = claim(call + COUNTER)


def schedule(mode):
    """The loop over sequences, passes and workers, for a mode: with threads or without, and the version of the source."""

    def loop(kernel, address):
        call = pointer(address, INT64)
        put(call, COUNTER, 0)
        S, workers = get(call, SEQUENCES), get(call, WORKERS) if mode[0] else 1
        for s in range(S + 1):
            if s == S or is_cut(call, s):
                for number in range(get(call, PASSES) if s < S else 1):
                    for worker in numba.prange(workers):
                        work(kernel, address, number, s, worker)

    return loop
