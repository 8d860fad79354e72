"""What `tost bench ops` measures, and what of it fits into the memory and the time there is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from tost.bench.contestants import CONTESTANTS, PUBLISHED, Case, compiler_reason
from tost.bench.memory import available_bytes, estimate
from tost.ops import which_backend

# B, H, D of the paper's comparison with softmax attention (its Small model), over numbers of tokens
PAPER_SHAPE = (1, 8, 48)
TOKENS = (1024, 2048, 4096, 8192, 16384)
# B, N, H, D: small and large models, one image and many; operators only, softmax attention would take minutes
SHAPES = ((2, 4096, 8, 48), (2, 8192, 12, 64), (1, 8192, 12, 64), (4, 1024, 12, 64), (64, 196, 8, 48))
MEMORY_BUDGET = 8 * 2**30


@dataclass
class Plan:
    """Sizes, repetitions and limits of a run; `skipped` collects what does not run, and why."""

    tokens: tuple[int, ...]
    shapes: tuple[tuple[int, int, int, int], ...]
    rounds: int
    call_limit_s: float  # no contestant whose one call is foreseen to take longer
    compiled_tokens: tuple[int, ...]  # torch.compile takes many seconds a case
    memory_directions: tuple[bool, ...]
    case_s: float  # no new round of a case starts after this
    budget_s: float  # rivals other than the published formula are left out after this, rounds are few
    deadline_s: float  # of their peaks only those of short calls are measured after this
    started: float = field(default_factory=time.monotonic)
    seen: dict[tuple[str, str, bool], tuple[int, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def look_around(self) -> None:
        """Find out who cannot run on this machine."""
        reason = compiler_reason()
        if reason is not None:
            self.absent["compiled"] = f"torch.compile does not work here ({reason})"
        for name in ("eager", "cpu"):
            try:
                which_backend(torch.ones(1, 1, 1, 1), name)
            except ValueError as declined:
                self.absent[name] = str(declined)

    def cases(self) -> list[Case]:
        """Every case; over numbers of tokens, small before large."""
        B, H, D = PAPER_SHAPE
        shapes = [*((B, N, H, D) for N in self.tokens), *self.shapes]
        return [Case(op, train, *shape) for shape in shapes for op in ("full", "causal") for train in (False, True)]

    def over_tokens(self, case: Case) -> bool:
        """Whether a case belongs to the comparison with softmax attention over numbers of tokens."""
        return (case.B, case.H, case.D) == PAPER_SHAPE and case.N in self.tokens

    def obstacle(self, name: str, case: Case) -> str | None:
        """Why a contestant sits this case out, or None: "" where it was not to take part anyway."""
        if name in self.absent:
            return self.absent[name]
        if name in ("softmax", "sdpa") and not self.over_tokens(case):
            return ""
        if name == "compiled" and self.over_tokens(case) and case.N not in self.compiled_tokens:
            return ""
        if is_optional(name) and self.late:
            return "out of time"
        return self.too_large(name, case, self.call_limit_s)

    def too_large(self, name: str, case: Case, seconds: float) -> str | None:
        """Why one call is out of reach: it needs too much memory, or is foreseen to take longer than that."""
        need = estimate(name, case)
        if need > min(MEMORY_BUDGET, 0.7 * (available_bytes() or MEMORY_BUDGET)):
            return f"over budget: {need / 2**30:.0f} GiB"
        if self.foreseen(name, case) > seconds:
            return f"over {seconds:.0f} s a call"
        return None

    @property
    def elapsed(self) -> float:
        """Seconds since the plan was made."""
        return time.monotonic() - self.started

    @property
    def late(self) -> bool:
        """Whether the time for the rivals is over."""
        return self.elapsed > self.budget_s

    def foreseen(self, name: str, case: Case) -> float:
        """Seconds that one call should take, from what a smaller case took; 0 if unknown."""
        N, seconds = self.seen.get((name, case.op, case.train), (case.N, 0.0))
        return seconds * (case.N / N) ** (2 if name in ("softmax", "sdpa") else 1)

    def note(self, name: str, case: Case, seconds: float) -> None:
        """Remember what a call took."""
        self.seen[name, case.op, case.train] = (case.N, seconds)


def is_optional(name: str) -> bool:
    """Whether a contestant is left out when time runs short: every rival but the published formula."""
    return CONTESTANTS[name].kind == "rival" and name != PUBLISHED


def make_plan(quick: bool, tokens: tuple[int, ...] | None = None, rounds: int | None = None) -> Plan:
    """The quick plan takes about two minutes on two cores, the other about twenty."""
    if quick:
        return Plan(tokens or (1024, 4096, 8192, 16384), (), rounds or 5, 5.0, (4096,), (True,), 4.0, 70.0, 105.0)
    sizes = tokens or TOKENS
    return Plan(sizes, SHAPES, rounds or 9, 30.0, sizes, (False, True), 60.0, 1200.0, 1800.0)
