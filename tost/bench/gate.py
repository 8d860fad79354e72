"""The gate of every benchmark here: no speed-up is reported for values or gradients that are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tost.bench.contestants import CONTESTANTS, Case, Entry, make_inputs
from tost.ops import causal_tssa, tssa

TOLERANCES = {
    "y": 2e-5,
    "dw": 5e-5,
    "dtemperature": 2e-4,
}  # of the largest entry: ours against the float64 eager backend
RIVALS = 10  # times that is allowed to rivals: the published causal sums lose digits as they grow
REFERENCE_TOLERANCE = 1e-9  # the float64 eager backend against the token-by-token reference


class Check(NamedTuple):
    """One comparison; `what` is y, dw or dtemperature."""

    contestant: str
    case: Case
    what: str
    error: float
    tolerance: float

    @property
    def green(self) -> bool:
        return self.error <= self.tolerance  # false for NaN

    def __str__(self) -> str:
        c = self.case
        return (
            f"{self.contestant} {c.op} B{c.B} N{c.N} H{c.H} D{c.D}: {self.what} is off by {self.error:.1e} "
            f"of its largest entry, {self.tolerance:.0e} allowed"
        )


def in_float64(case: Case, backend: str) -> tuple[Tensor, ...]:
    """y, and with train dw and dtemperature, computed in float64."""
    w, g, temperature = make_inputs(case, torch.float64)
    w.requires_grad_(case.train), temperature.requires_grad_(case.train)
    y = (tssa if case.op == "full" else causal_tssa)(w, temperature, backend=backend)
    assert isinstance(y, Tensor)
    return (y.detach(), *(torch.autograd.grad(y, (w, temperature), g) if case.train else ()))


def check_definition() -> list[Check]:
    """The float64 eager backend against the reference on a small odd shape, both operators, with gradients."""
    checks = []
    for op in ("full", "causal"):
        case = Case(op, True, 2, 37, 3, 5)
        expected, got = in_float64(case, "reference"), in_float64(case, "eager")
        allowed = dict.fromkeys(TOLERANCES, REFERENCE_TOLERANCE)
        checks += compare("float64 eager against reference", case, got, expected, allowed)
    return checks


def check_case(case: Case, entries: Sequence[Entry]) -> list[Check]:
    """Everything about to be timed that computes the operator, on the very tensors that are timed."""
    expected = in_float64(case, "eager")
    checks = []
    for entry in entries:
        contestant = CONTESTANTS[entry.name]
        if contestant.exact:
            factor = RIVALS if contestant.kind == "rival" else 1
            allowed = {what: factor * tolerance for what, tolerance in TOLERANCES.items()}
            checks += compare(entry.name, case, entry.outputs(), expected, allowed)
    return checks


def compare(
    name: str, case: Case, got: Sequence[Tensor], expected: Sequence[Tensor], tolerances: dict[str, float]
) -> list[Check]:
    """One check per output."""
    return [
        Check(name, case, what, relative_error(a, b), tolerances[what]) for what, a, b in zip(TOLERANCES, got, expected)
    ]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected entry."""
    return float((got.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
