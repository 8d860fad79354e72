"""The gate of every group: no speed-up is reported for values or gradients that are wrong."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from tost.bench import definitions
from tost.bench.contestants import CONTESTANTS, Case, Entry, Tensors, make_inputs

# of the largest entry, against float64: ours, by precision
TOLERANCES = {
    "float32": {"y": 2e-5, "dw": 5e-5, "dtemperature": 2e-4},
    "float16": {"y": 2e-3, "dw": 4e-3, "dtemperature": 1e-2},
    "bfloat16": {"y": 8e-3, "dw": 1.5e-2, "dtemperature": 5e-2},
}
RIVALS = 10  # times that in float32: the published sums, which are plain float32, lose digits as they grow
GROWING = 2**16  # tokens from which their allowance grows, as rounding does: like the root of the number of terms
HALF_RIVALS = {"float16": 0.05, "bfloat16": 0.25}  # intermediate results are rounded too; float32 shows the formula
REFERENCE_TOLERANCE = 1e-9  # float64 against the token-by-token reference
WHOLE = 2**17  # tokens up to which a forward pass is checked in one piece


class Check(NamedTuple):
    """One comparison: what of whom, how far off and how far is allowed."""

    what: str
    error: float
    tolerance: float

    @property
    def green(self) -> bool:
        return self.error <= self.tolerance  # false for NaN

    def __str__(self) -> str:
        return f"{self.what}: off by {self.error:.1e}, {self.tolerance:.0e} allowed"


def check_definition() -> list[Check]:
    """What the gate compares with against the token-by-token reference, on a small odd shape with gradients."""
    checks = []
    for op in ("full", "causal"):
        case = Case(op, True, 2, 37, 3, 5)
        inputs = make_inputs(case)
        expected, got = (definitions.operator(case, *inputs, backend=name) for name in ("reference", "eager"))
        names = ("y", "dw", "dtemperature")
        checks += [
            Check(f"float64 eager, {op}: {what}", relative_error(a, b), REFERENCE_TOLERANCE)
            for what, a, b in zip(names, got, expected)
        ]
        (chunk,) = definitions.operator_by_chunks(op, inputs[0], inputs[2])
        checks.append(Check(f"float64 by chunks, {op}: y", relative_error(chunk, expected[0]), REFERENCE_TOLERANCE))
    return checks


def check_case(case: Case, entries: Sequence[Entry], tensors: Tensors) -> Iterator[Check]:
    """Everything about to be timed, on the very tensors that are timed."""
    operators = [entry for entry in entries if CONTESTANTS[entry.name].computes == "tssa"]
    if case.train or case.N <= WHOLE:
        w, g, t = tensors.arranged(0, False), tensors.arranged("g", False), tensors.temperature
        expected = definitions.operator(case, w, g, t) if operators else ()
        for entry in operators:
            yield from _check_operator(entry, expected)
    else:
        for entry in operators:
            yield _check_long(entry, tensors)
    for entry in entries:
        if CONTESTANTS[entry.name].computes in definitions.DEFINITIONS:
            yield from _check_attention(entry, tensors)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected entry."""
    return float((got.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def tolerance(name: str, case: Case, what: str) -> float:
    """How far off a contestant may be in the precision of the case."""
    allowed = TOLERANCES[case.dtype].get(what, TOLERANCES[case.dtype]["dw"])
    if CONTESTANTS[name].kind == "ours":
        return allowed
    return rivals(case) * allowed if case.dtype == "float32" else HALF_RIVALS[case.dtype]


def rivals(case: Case) -> float:
    """Times our tolerance that a rival has in float32."""
    return RIVALS * max(1.0, (case.N / GROWING) ** 0.5)


def _check_operator(entry: Entry, expected: Sequence[Tensor]) -> Iterator[Check]:
    names = ("y", "dw", "dtemperature")
    ours = CONTESTANTS[entry.name].kind == "ours"
    for what, a, b in zip(names if ours or entry.case.dtype == "float32" else names[:2], entry.outputs(), expected):
        yield Check(_title(entry, what), relative_error(a, b), tolerance(entry.name, entry.case, what))
    if _formula_too(entry):
        for what, a, b in zip(names, entry.in_float32(), expected):
            allowed = rivals(entry.case) * TOLERANCES["float32"][what]
            yield Check(_title(entry, f"{what} in float32"), relative_error(a, b), allowed)


def _check_long(entry: Entry, tensors: Tensors) -> Check:
    """y alone, in pieces: the whole in float64 would be larger than what is measured."""
    (y,) = entry.outputs()
    worst = largest = 0.0
    pieces = definitions.operator_by_chunks(entry.case.op, tensors.arranged(0, False), tensors.temperature)
    for got, expected in zip(y.split(definitions.CHUNK, dim=1), pieces):
        off = float((got.double() - expected).abs().max())
        worst = off if off != off or off > worst else worst  # NaN stays
        largest = max(largest, float(expected.abs().max()))
    return Check(_title(entry, "y"), worst / max(largest, 1e-30), tolerance(entry.name, entry.case, "y"))


def _check_attention(entry: Entry, tensors: Tensors) -> Iterator[Check]:
    case, computes = entry.case, CONTESTANTS[entry.name].computes
    rows, y, dq = definitions.attend(computes, case, *(tensors.arranged(i, False) for i in (0, 1, 2, "g")))
    found = [("", entry.outputs(), tolerance(entry.name, case, "dw"))]
    if _formula_too(entry):
        found.append((" in float32", entry.in_float32(), rivals(case) * TOLERANCES["float32"]["dw"]))
    for suffix, got, allowed in found:
        for what, a, b in zip(("y", "dq"), got, (y, dq)):
            yield Check(_title(entry, what + suffix), relative_error(a[:, rows], b), allowed)


def _formula_too(entry: Entry) -> bool:
    """Whether a contestant's numbers in half precision say too little about its formula."""
    return CONTESTANTS[entry.name].plain and CONTESTANTS[entry.name].kind == "rival" and entry.case.dtype != "float32"


def _title(entry: Entry, what: str) -> str:
    c = entry.case
    return f"{entry.name} {c.op} B{c.B} N{c.N} H{c.H} D{c.D}: {what}"
