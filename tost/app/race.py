"""The operator beside softmax attention at growing lengths, with the measuring functions of `tost bench`."""

# N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch

from tost.app.chart import Line, chart
from tost.bench import operators
from tost.bench.contestants import CONTESTANTS, LABELS, OPS, Case
from tost.bench.gate import check_definition
from tost.bench.limits import Limits, estimate
from tost.bench.measure import FEWEST_ROUNDS
from tost.bench.presence import obstacle
from tost.bench.result import Result
from tost.bench.settings import Settings
from tost.ops import which_backend

SHAPE = (8, 48)  # H, D of ToST-S, one sequence
FEWEST, MOST = 256, 65536  # tokens
CALL_S = 2.0  # a contestant whose call is foreseen to take longer sits out
CASE_S = 2.0
BYTES = 2 * 2**30  # a call that would need more is refused, whatever the machine has
SOFTMAX = ("sdpa", "softmax")


class PageLimits(Limits):
    """The benchmark's limits, and at most BYTES a call."""

    def peak_obstacle(self, name: str, case: Case, seconds: float | None = None) -> str | None:
        need = estimate(name, case)
        if need > BYTES:
            return f"needs {need / 2**30:.1f} GiB, the page allows {BYTES / 2**30:.0f}"
        return super().peak_obstacle(name, case, seconds)


@dataclass
class Race:
    """What was measured so far. done: the share of the work; doing: what comes next, in words."""

    op: str
    counts: list[int]
    names: list[str]
    result: Result
    done: float = 0.0
    doing: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def of(self, what: str, name: str) -> dict[int, dict[str, Any]]:
        """Tokens -> record of "time" or "peak"."""
        return {r["N"]: r for r in self.result.of(what, contestant=name)}


def lengths(most: int) -> list[int]:
    """Doubling from FEWEST, and `most` itself."""
    most = min(max(int(most), FEWEST), MOST)
    counts = [FEWEST * 2**i for i in range(20) if FEWEST * 2**i < most]
    return [*counts, most]


def race(op: str, most: int, rounds: int = 5) -> Iterator[Race]:
    """Measure time at every length, then peak memory contestant by contestant; the race as it stands, again and again.

    op: "full" or "causal".  Raises ValueError if a contestant's values are wrong, which is checked before it is timed.
    """
    if op not in OPS:
        raise ValueError(f"expected one of {', '.join(OPS)}, got {op!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = which_backend(torch.empty(1, 1, *SHAPE, device=device))
    result, names = Result("page", Settings(device=device)), [ours, *SOFTMAX]
    reasons = {name: obstacle(name, CONTESTANTS[name], result.settings) for name in names}
    limits = PageLimits(CALL_S, float("inf"), {name: why for name, why in reasons.items() if why})
    found = Race(op, lengths(most), names, result)
    total = len(found.counts) + len(found.names)
    cases = [Case(op, False, 1, count, *SHAPE, "float32", device) for count in found.counts]
    result.check(check_definition())
    for index, case in enumerate(cases):
        found.done, found.doing = index / total, f"time of {case.N:,} tokens"
        yield found
        if result.red or not operators.time_case(result, limits, case, found.names, max(rounds, FEWEST_ROUNDS), CASE_S):
            raise ValueError(f"a result is wrong, so nothing is timed: {result.red[0]}")
    for index, name in enumerate(found.names, len(cases)):
        found.done, found.doing = index / total, f"peak memory of {LABELS[name]}, in a process of its own"
        yield found
        result.add("peak", operators.operator_peaks(limits, name, cases))
    found.done, found.doing = 1.0, ""
    yield found


def label(name: str) -> str:
    """What a contestant is called on the page."""
    return {"sdpa": "softmax, fused (SDPA)", "softmax": "softmax, unfused"}.get(name, f"token statistics ({name})")


def charts(found: Race) -> tuple[str, str]:
    """Time and memory over the tokens, both axes logarithmic; who was refused is named."""
    pictures = []
    for what, key, scale, title, unit in (
        ("time", "ms", 1.0, "Time of a call", " ms"),
        ("peak", "bytes", 2**-20, "Peak memory, beyond the inputs", " MiB"),
    ):
        lines = []
        for name, place in zip(found.names, (0, 4, 1)):
            records = found.of(what, name)
            points = [(n, r[key] * scale) for n, r in sorted(records.items()) if r[key]]
            lines.append(Line(label(name), points, place, marks=True))
        told = "; ".join(refusals(found, what)) or "Both axes are logarithmic."
        ticks = found.counts[:: (len(found.counts) + 5) // 6]
        pictures.append(chart(lines, title, "tokens", told=told, log=True, ticks=ticks, unit=unit))
    return pictures[0], pictures[1]


def refusals(found: Race, what: str) -> Iterator[str]:
    """The first length at which a contestant was left out, and why."""
    for name in found.names:
        left = [(n, r["note"]) for n, r in sorted(found.of(what, name).items()) if r.get("note")]
        if left:
            yield f"{label(name)} left out from {left[0][0]:,} tokens: {left[0][1]}"


def table(found: Race) -> str:
    """Milliseconds and MiB at every length."""
    head = "".join(f"<th>{n:,}</th>" for n in found.counts)
    lines = []
    for what, key, scale, unit in (("time", "ms", 1.0, "ms"), ("peak", "bytes", 2**-20, "MiB")):
        for name in found.names:
            records = found.of(what, name)
            cells = "".join(cell(records.get(n), key, scale) for n in found.counts)
            ours = " class='ours'" if name == found.names[0] else ""
            lines.append(f"<tr{ours}><td>{escape(label(name))}, {unit}</td>{cells}</tr>")
    return (
        "<div class='tost-card'><div class='tost-scroll'><table><thead><tr><th>tokens</th>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )


def cell(record: dict[str, Any] | None, key: str, scale: float) -> str:
    """A number, or why there is none."""
    if record is None:
        return "<td></td>"
    if record[key] is None:
        return f"<td class='none'>{escape(record.get('note') or '')}</td>"
    value = record[key] * scale
    return f"<td>{value:,.0f}</td>" if value >= 100 else f"<td>{value:.3g}</td>"


def progress(found: Race) -> str:
    """A bar and what is being measured."""
    doing = f"measuring the {escape(found.doing)} ..." if found.doing else "done"
    percent = f"{100 * found.done:.0f}"
    return (
        f"<div class='tost-card'><div class='tost-bar' role='progressbar' aria-valuenow='{percent}' aria-valuemin='0' "
        f"aria-valuemax='100'><div style='width:{percent}%'></div></div><p>{doing}</p></div>"
    )
