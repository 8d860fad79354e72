"""A rival and the stream take turns on the same frames, so that what slows the machine slows both."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from examples.video.encoder import Rival, step
from examples.video.rivals import FullCacheError

MORE = 5  # frames once the cache is full: these count


@dataclass
class Comparison:
    """ms of a rival and of the stream, frame by frame, by the clock and of processor time, and what ended it."""

    name: str
    rival: list[float] = field(default_factory=list)
    stream: list[float] = field(default_factory=list)
    rival_cpu: list[float] = field(default_factory=list)
    stream_cpu: list[float] = field(default_factory=list)
    nbytes: int = 0
    ended: str = "done"

    def facts(self) -> dict[str, Any]:
        """The last MORE frames in figures: medians, and the medians of the pairs' ratios."""
        last = slice(-MORE, None)
        pairs = [a / b for a, b in zip(self.rival[last], self.stream[last])]
        cpu_pairs = [a / max(b, 1e-6) for a, b in zip(self.rival_cpu[last], self.stream_cpu[last])]
        return {
            "name": self.name,
            "frames": len(self.rival),
            "ms": median(self.rival[last]),
            "tost_ms": median(self.stream[last]),
            "ratio": median(pairs),
            "cpu_ratio": median(cpu_pairs),
            "cache_bytes": self.nbytes,
            "ended": self.ended,
        }


def compare(
    kind: Rival, rival: nn.Module, stream: nn.Module, pictures: Iterable[np.ndarray], limit_s: float
) -> Comparison:
    """Play `pictures` until the rival's memory is full and MORE frames are timed, or `limit_s` seconds are over."""
    found, wanted = Comparison(kind.name), kind.frames
    started = time.perf_counter()
    for number, picture in enumerate(pictures, 1):
        try:
            (wall, cpu), (own_wall, own_cpu) = (timed(encoder, picture) for encoder in (rival, stream))
        except FullCacheError as full:
            found.ended = f"after {number - 1} frames {full}"
            break
        found.rival.append(1e3 * wall)
        found.rival_cpu.append(1e3 * cpu)
        found.stream.append(1e3 * own_wall)
        found.stream_cpu.append(1e3 * own_cpu)
        if wanted is not None and number >= wanted + MORE:
            break
        if time.perf_counter() - started > limit_s:
            found.ended = "done" if wanted and number >= wanted else f"{limit_s:g} s were over at frame {number}"
            break
    else:
        found.ended = f"the clip ended at frame {len(found.rival)}"
    found.nbytes = getattr(rival, "nbytes", 0)
    return found


def timed(encoder: nn.Module, picture: np.ndarray) -> tuple[float, float]:
    """Seconds of one frame, by the clock and of processor time."""
    clock, busy = time.perf_counter(), time.process_time()
    step(encoder, picture)
    return time.perf_counter() - clock, time.process_time() - busy
