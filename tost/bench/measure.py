"""Paired timing: contestants take turns in one process, so that whatever slows the machine slows them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

import torch

SLOW_S = 1.0
SLOW_ROUNDS = 2  # of calls longer than SLOW_S: their spread is small beside their length
FEWEST_ROUNDS = 3
WARM_UP = 2  # calls of each contestant, one of a contestant longer than SLOW_S
ONCE_S = 8.0  # the round of a call this long is its only one
SAMPLE_S = 0.01  # short calls are repeated until a sample takes about this long
GPU_REPEATS = 25  # at most, as each is behind a flush of the L2 cache
FLUSH_BYTES = 2**28  # several times the L2 cache of any GPU

Name = TypeVar("Name", bound=Hashable)  # of a contestant
Call = Callable[[], object]
Clock = Callable[[Call, int], float]


def paired(
    calls: Mapping[Name, Call],
    rounds: int,
    seconds: float = float("inf"),
    slow_rounds: int = SLOW_ROUNDS,
    device: str = "cpu",
) -> dict[Name, list[float]]:
    """Seconds per call of every contestant in each round, after a warm-up; the order turns around every round.

    After `seconds` no further round starts, but FEWEST_ROUNDS are run in any case; calls over SLOW_S run `slow_rounds`,
    calls over ONCE_S one.
    """
    clock = gpu_clock() if device == "cuda" else wall_clock
    most = GPU_REPEATS if device == "cuda" else 10**6
    started = time.perf_counter()
    warm = {name: _warm(call, clock) for name, call in calls.items()}
    repeats = {name: min(most, max(1, round(SAMPLE_S / max(taken, 1e-7)))) for name, taken in warm.items()}
    allowed = {name: 1 if t > ONCE_S else slow_rounds if t > SLOW_S else rounds for name, t in warm.items()}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    with no_collection():
        for index in range(rounds):
            if index >= FEWEST_ROUNDS and time.perf_counter() - started > seconds:
                break
            turn = [name for name in calls if index < allowed[name]]
            for name in turn if index % 2 else reversed(turn):
                samples[name].append(clock(calls[name], repeats[name]))
    return samples


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times longer `slow` takes: the median over the rounds that both ran."""
    return median(a / b for a, b in zip(slow, fast))


def wall_clock(call: Call, repeats: int) -> float:
    """Mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def gpu_clock() -> Clock:
    """A clock of GPU events: median seconds of a call, each behind a write that empties the L2 cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def clock(call: Call, repeats: int) -> float:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in events:
            flush.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return median(start.elapsed_time(end) for start, end in events) / 1e3

    return clock


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector runs before, not during."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _warm(call: Call, clock: Clock) -> float:
    first = clock(call, 1)
    return first if first > SLOW_S else min(first, *(clock(call, 1) for _ in range(WARM_UP - 1)))
