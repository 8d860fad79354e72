"""Paired timing: contestants take turns in one process, so that whatever slows the machine slows them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

SLOW_S = 1.0
SLOW_ROUNDS = 2  # of calls longer than SLOW_S: their spread is small beside their length
FEWEST_ROUNDS = 3
WARM_UP = 2  # calls of each contestant
SAMPLE_S = 0.01  # short calls are repeated until a sample takes about this long

Name = TypeVar("Name", bound=Hashable)  # of a contestant


def paired(
    calls: Mapping[Name, Callable[[], object]],
    rounds: int,
    seconds: float = float("inf"),
    slow_rounds: int = SLOW_ROUNDS,
) -> dict[Name, list[float]]:
    """Seconds per call of every contestant in each round, after a warm-up; the order turns around every round.

    After `seconds` no further round starts, but FEWEST_ROUNDS are run in any case; calls over SLOW_S run `slow_rounds`.
    """
    started = time.perf_counter()
    warm = {name: min(_time(call, 1) for _ in range(WARM_UP)) for name, call in calls.items()}
    repeats = {name: max(1, round(SAMPLE_S / max(taken, 1e-7))) for name, taken in warm.items()}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    with no_collection():
        for index in range(rounds):
            if index >= FEWEST_ROUNDS and time.perf_counter() - started > seconds:
                break
            turn = [name for name in calls if warm[name] < SLOW_S or index < slow_rounds]
            for name in turn if index % 2 else reversed(turn):
                samples[name].append(_time(calls[name], repeats[name]))
    return samples


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times longer `slow` takes: the median over the rounds that both ran."""
    return median(a / b for a, b in zip(slow, fast))


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


def _time(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
