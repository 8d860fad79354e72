"""Who works on what: sequences and shares of sequences, dealt out to threads.

A kernel is a C function of (call, number, s, start, stop, worker, group, members): pass `number` over rows start..stop
of sequence s, whose other rows are with workers group .. group + members - 1, if there are any. `call` is the address
of the call's numbers (blocks.py names them). The loops over threads are compiled once, not for every kernel and type.

The threads are torch's own, through the OpenMP library that it has loaded: a second pool beside it would wait for its
turn on every core while the threads of the first one, just done with some torch operation, idle in a busy loop. Where
there is no such library, Numba's pool serves.
"""

# S sequences, R rows = tokens of all sequences, C numbers a row

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tost.ops.cpu.blocks import (
    COUNTER,
    FIRST,
    INT64,
    KERNEL,
    LARGE,
    MEMBERS,
    NUMBERS,
    PASS,
    PASSES,
    RANK,
    REGION,
    SEQUENCE,
    SEQUENCES,
    STOP,
    TEAM,
    UNIT,
    WORKERS,
    device,
    first_row,
)
from tost.ops.cpu.simd import claim, get, pointer, put

SMALL = 1 << 15  # numbers: a shorter sequence is not worth the barriers between threads
KERNEL_TYPE = types.void(*[types.int64] * 8)
REGION_TYPE = types.void(types.int64)


def _call(builder: Any, address: Any, result: Any, arguments: list) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)


@intrinsic
def run_kernel(typing: Any, kernel: Any, *arguments: Any) -> Any:
    """Calls the kernel at an address."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _call(builder, args[0], ir.VoidType(), [builder.extract_value(args[1], i) for i in range(8)])
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, 8)), emit


@intrinsic
def run_team(typing: Any, team: Any, region: Any, call: Any, workers: Any) -> Any:
    """GOMP_parallel(region, call, workers, 0): every thread of a team calls the region, then all have met."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number, flags = builder.trunc(args[3], ir.IntType(32)), ir.IntType(32)(0)
        _call(builder, args[0], ir.VoidType(), [args[1], args[2], number, flags])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), emit


@intrinsic
def ask(typing: Any, function: Any) -> Any:
    """The int that the C function at an address returns."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sext(_call(builder, args[0], ir.IntType(32), []), ir.IntType(64))

    return types.int64(types.int64), emit


@device
def is_cut(call, s):
    """Whether all workers share this sequence: one of them alone would be the last to finish, or several sequences
    at once would push one another out of the cache between two passes."""
    workers = get(call, WORKERS)
    rows = first_row(call, s + 1) - first_row(call, s)
    late = rows * workers > first_row(call, get(call, SEQUENCES)) and rows * get(call, NUMBERS) >= SMALL
    return workers > 1 and (late or rows * get(call, NUMBERS) >= get(call, LARGE))


@device
def work(address, worker):
    """One worker's share of the sequence in turn, a run of whole units, or, behind the last one, whole sequences until
    none is left."""
    call = pointer(address, INT64)
    kernel, number, s = get(call, KERNEL), get(call, PASS), get(call, SEQUENCE)
    if s < get(call, SEQUENCES):
        start, stop = first_row(call, s), first_row(call, s + 1)
        workers, unit = get(call, WORKERS), get(call, UNIT)
        units = (stop - start + unit - 1) // unit
        low = min(start + units * worker // workers * unit, stop)
        high = min(start + units * (worker + 1) // workers * unit, stop)
        run_kernel(kernel, address, number, s, low, high, worker, 0, workers)
        return
    mine = claim(call + COUNTER)
    while mine < s:
        if not is_cut(call, mine):
            for whole in range(get(call, FIRST), get(call, STOP)):
                run_kernel(
                    kernel, address, whole, mine, first_row(call, mine), first_row(call, mine + 1), worker, worker, 1
                )
        mine = claim(call + COUNTER)


def region(mode):
    """What a thread of a team does, for this version of the source."""

    def enter(address):
        call, _ = pointer(address, INT64), mode[0]
        # a team may be smaller than asked for, in another's parallel region for one
        for worker in range(ask(get(call, RANK)), get(call, WORKERS), ask(get(call, MEMBERS))):
            work(address, worker)

    return enter


@device
def passes_over(call, s):
    """Parallel regions for sequence s, and one (s = S) for all that are not shared."""
    if s == get(call, SEQUENCES):
        return 1
    return get(call, PASSES) if is_cut(call, s) else 0


def schedule(mode):
    """The loop over sequences and passes, on Numba's threads or on torch's (or on none), for this source's version."""

    def loop(address):
        call = pointer(address, INT64)
        put(call, COUNTER, 0)
        workers, pool = get(call, WORKERS), mode[0]
        for s in range(get(call, SEQUENCES) + 1):
            for number in range(passes_over(call, s)):
                put(call, SEQUENCE, s)
                put(call, PASS, number)
                if workers == 1:
                    work(address, 0)
                elif pool:
                    for worker in numba.prange(workers):
                        work(address, worker)
                else:
                    run_team(get(call, TEAM), get(call, REGION), address, workers)

    return loop
