"""What of a plan fits into the memory and the time there is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tost.bench.contestants import CONTESTANTS, PUBLISHED, Case
from tost.bench.peak import available_bytes

PATIENCE = 3  # a peak takes one call, a time several
MOST_BYTES = 12 * 2**30  # on a CPU, whose memory others use too
COPIES = {"softmax": (6, 12), "linear": (16, 32), "xca": (12, 24)}  # of w a call holds, forward and with backward
PUBLISHED_COPIES = {"full": (8, 16), "causal": (12, 26)}


@dataclass
class Limits:
    """call_s: no contestant whose one call is foreseen to take longer.  budget_s: rivals sit out after that time."""

    call_s: float
    budget_s: float
    absent: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    seen: dict[tuple[str, str, bool], tuple[float, float]] = field(default_factory=dict)

    def obstacle(self, name: str, case: Case) -> str | None:
        """Why a contestant is not timed on this case, or None: "" where it was not to take part anyway."""
        if self.late and self.takes_part(name, case) and CONTESTANTS[name].kind == "rival" and name != PUBLISHED:
            return "out of time"
        found = self.peak_obstacle(name, case, self.call_s)
        need = estimate(name, case) + check_bytes(name, case)
        if found is None and need > memory_budget(case.device):
            return f"needs {need / 2**30:.0f} GiB with its check"
        return found

    def peak_obstacle(self, name: str, case: Case, seconds: float | None = None) -> str | None:
        """The same for one call, which may take longer where nobody times it (not when it is late)."""
        if not self.takes_part(name, case):
            return ""
        need, there = estimate(name, case), memory_budget(case.device)
        if need > there:
            return f"needs {need / 2**30:.0f} GiB"
        allowed = seconds or (self.call_s if self.late else PATIENCE * self.call_s)
        return f"over {allowed:.0f} s a call" if self.foreseen(name, case) > allowed else None

    def takes_part(self, name: str, case: Case) -> bool:
        """Whether a contestant is here and has this operator."""
        return name not in self.absent and case.op in CONTESTANTS[name].ops

    @property
    def late(self) -> bool:
        """Whether the time for the rivals is over."""
        return time.monotonic() - self.started > self.budget_s

    def foreseen(self, name: str, case: Case) -> float:
        """Seconds that one call should take, from what another case took; 0 if unknown."""
        amount, seconds = self.seen.get((name, case.op, case.train), (1.0, 0.0))
        return seconds * _amount(name, case) / amount

    def note(self, name: str, case: Case, seconds: float) -> None:
        """Remember what a call took."""
        self.seen[name, case.op, case.train] = (_amount(name, case), seconds)


def estimate(name: str, case: Case) -> int:
    """Bytes that a call of this contestant will need, its inputs included, roughly."""
    contestant = CONTESTANTS[name]
    if contestant.computes == "tssa" and contestant.kind == "rival":
        return PUBLISHED_COPIES[case.op][case.train] * case.w_bytes
    square = 0
    if name in ("softmax", "sdpa_math"):
        square = case.w_bytes // case.D * case.N * (4 if case.train else 2)
    return COPIES.get(contestant.computes, (4, 7))[case.train] * case.w_bytes + square


def check_bytes(name: str, case: Case) -> int:
    """Bytes of the float64 copies with which gradients of the operator are checked, roughly."""
    return 40 * case.B * case.N * case.H * case.D if case.train and CONTESTANTS[name].computes == "tssa" else 0


def memory_budget(device: str) -> int:
    """Bytes that a call may take."""
    there = available_bytes(device)
    if device == "cuda":
        return int(0.9 * (there or 0))
    return min(MOST_BYTES, int(0.6 * (there or MOST_BYTES)))


def _amount(name: str, case: Case) -> float:
    return float(case.w_bytes) * (case.N if CONTESTANTS[name].quadratic else 1)
