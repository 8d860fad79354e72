"""The operators at sizes of real layers: times beside every rival, and how near they come to copying the tensor."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from tqdm import tqdm

from tost.bench import operators
from tost.bench.contestants import CONTESTANTS, LABELS, OPS, OURS, Case
from tost.bench.gate import check_definition
from tost.bench.limits import Limits
from tost.bench.presence import absentees
from tost.bench.result import Result
from tost.bench.settings import Settings
from tost.bench.tables import markdown, number, pivot, shape_name, shape_of, timed, times

LONG = 4096  # tokens from which on the medians below count
# B, N, H, D: small and large models, one sequence and many
SHAPES: dict[tuple[str, bool], tuple[tuple[int, int, int, int], ...]] = {
    ("cpu", True): ((1, 4096, 8, 48),),
    ("cpu", False): ((2, 4096, 8, 48), (2, 8192, 12, 64), (1, 8192, 12, 64), (4, 1024, 12, 64), (64, 196, 8, 48)),
    ("cuda", True): ((8, 4096, 12, 64),),
    ("cuda", False): ((8, 4096, 12, 64), (1, 65536, 12, 64), (128, 196, 8, 48)),
}
CALL_S = {True: 2.0, False: 6.0}  # no call longer than this, quick and not
CASE_S = {True: 4.0, False: 15.0}  # no new round of a case after this
BUDGET_S = {True: 75.0, False: 420.0}  # after it most rivals sit out; a GPU run has the shorter one


def cases_of(settings: Settings) -> list[Case]:
    """Both operators, forward and with backward, at every shape."""
    shapes = SHAPES[settings.device, settings.quick]
    return [
        Case(op, train, *shape, settings.dtype, settings.device)
        for shape in shapes
        for op in OPS
        for train in (False, True)
    ]


def measure(result: Result) -> None:
    """Check and time all contestants of all cases."""
    settings = result.settings
    result.absent = absentees(settings)
    if not result.check(check_definition()):
        return
    limits = Limits(CALL_S[settings.quick], BUDGET_S[settings.quick or settings.device == "cuda"], result.absent)
    rounds = settings.rounds or (5 if settings.quick else 9)
    names = operators.names_of(result)
    for case in tqdm(cases_of(settings), unit="case", desc="operators", leave=False):
        if not operators.time_case(result, limits, case, names, rounds, CASE_S[settings.quick], 2 - settings.quick):
            return


def report(result: Result) -> list[str]:
    """Times, shares of the copy's bandwidth, medians."""
    parts = []
    for op, direction in _kinds(result):
        rows = result.of("time", op=op, direction=direction)
        table = pivot(rows, shape_of, timed(base="published"), LABELS, head=shape_name)
        parts.append(f"**{op}, {direction}**: milliseconds (speed-up over the published formula)\n\n{table}")
    for op, direction in _kinds(result):
        rows = [r for r in result.of("time", op=op, direction=direction) if r.get("of_copy")]
        table = pivot(rows, shape_of, of_copy, LABELS, head=shape_name)
        parts.append(
            f"**{op}, {direction}**: share of copy_'s bandwidth, counting the bytes that must move; copy_ itself in "
            f"GB/s, softmax in GFLOP/s\n\n{table}"
        )
    kernels = sorted({r["kernel"] for r in result.of("kernel")})
    return [*parts, *([f"SDPA chose: {', '.join(kernels)}."] if kernels else []), *medians(result)]


def of_copy(record: dict[str, Any]) -> str:
    """Such as "81%"; what is bound by arithmetic in GFLOP/s, the copy itself in GB/s."""
    if CONTESTANTS[record["contestant"]].quadratic:
        return f"{number(record['gflops_per_s'])} GF/s"
    return number(record["gb_per_s"]) if record["contestant"] == "copy" else f"{record['of_copy']:.0%}"


def medians(result: Result) -> Iterator[str]:
    """A table of our speed-ups over shapes of many tokens."""
    rivals = [name for name in ("published", "compiled", "sdpa", "clone", "copy") if name not in result.absent]
    lines = []
    for name in OURS:
        for op, direction in _kinds(result):
            cells = []
            for rival in rivals:
                over = (_ratio(result, op, direction, shape, rival, name) for shape in _long(result))
                found = [ratio for ratio in over if ratio]
                cells.append(times(median(found)) if found else "")
            if any(cells):
                lines.append([f"{LABELS[name]}, {op}, {direction}", *cells])
    if lines:
        title = f"**medians** over the shapes of {LONG:,} tokens and more: how many times as long the others take"
        yield f"{title}\n\n{markdown(['', *(LABELS[rival] for rival in rivals)], lines)}"


def _kinds(result: Result) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["op"], r["direction"]) for r in result.of("time")))


def _long(result: Result) -> list[Any]:
    return list(dict.fromkeys(shape_of(r) for r in result.of("time") if r["N"] >= LONG))


def _ratio(result: Result, op: str, direction: str, shape: Any, rival: str, ours: str) -> float | None:
    rows = {r["contestant"]: r for r in result.of("time", op=op, direction=direction) if shape_of(r) == shape}
    theirs, mine = rows.get(rival, {}).get("ms"), rows.get(ours, {}).get("ms")
    return theirs / mine if theirs and mine else None
