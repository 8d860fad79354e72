"""Results of `tost bench ops` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tost.bench.contestants import CONTESTANTS, PUBLISHED

Record = dict[str, Any]
Shape = tuple[int, int, int, int]


def report(result: Record) -> str:
    """Header, times with speed-ups over the published formula, memory, saved bytes and the decode step."""
    parts = [header(result["machine"])]
    parts += [f"{CONTESTANTS[name].label}: left out, {why}." for name, why in result["absent"].items()]
    worst = max((check["error"] for check in result["checks"]), default=0.0)
    parts.append(f"Gate: green, {len(result['checks'])} comparisons of values and gradients, worst error {worst:.0e}.")
    for op in ("full", "causal"):
        for direction in ("forward", "forward+backward"):
            rows = [r for r in result["times"] if (r["op"], r["direction"]) == (op, direction)]
            parts.append(f"**{op}, {direction}**: milliseconds (speed-up over the published formula)\n\n" + times(rows))
    if result["memory"]:
        parts.append(
            "**peak memory** beyond the inputs, MiB, each contestant in a process of its own\n\n"
            + memory(result["memory"])
        )
    if result["saved"]:
        title = "**kept for the backward pass** beside the inputs, over the size of w"
        parts.append(f"{title}\n\n{saved(result['saved'])}")
    if result["decode"]:
        steps = ", ".join(f"{name_of(r['contestant'])} {r['us']:.0f}" for r in result["decode"])
        title = "**decode step**, B1 N1 H12 D64 with state, microseconds (published: 512 tokens recomputed)"
        parts.append(f"{title}: {steps}")
    return "\n\n".join(parts)


def header(machine: dict[str, str]) -> str:
    """One line a fact."""
    return "\n".join(f"- {name}: {value}" for name, value in machine.items())


def times(rows: Sequence[Record]) -> str:
    """Contestants down, shapes across."""
    shapes = unique(shape_of(r) for r in rows)
    cells = {(r["contestant"], shape_of(r)): time_cell(r) for r in rows}
    return markdown(["", *map(shape_name, shapes)], _lines(cells, shapes))


def memory(rows: Sequence[Record]) -> str:
    """Contestants down, operator, direction and shape across."""
    keys = sorted(unique((r["op"], r["direction"], shape_of(r)) for r in rows), key=lambda key: key[0] != "full")
    cells = {}
    for r in rows:
        value = r["note"] or "not measured" if r["bytes"] is None else f"{r['bytes'] / 2**20:,.0f}"
        cells[r["contestant"], (r["op"], r["direction"], shape_of(r))] = value
    short = {"forward": "", "forward+backward": " f+b"}
    heads = [f"{op}{short[direction]}, {shape_name(shape)}" for op, direction, shape in keys]
    return markdown(["", *heads], _lines(cells, keys))


def saved(rows: Sequence[Record]) -> str:
    """Contestants down, operators across."""
    cells = {(r["contestant"], r["op"]): f"{r['over_w']:.2f}" for r in rows}
    return markdown(["", "full", "causal"], _lines(cells, ["full", "causal"]))


def time_cell(row: Record) -> str:
    """Such as "12.3 (4.5x)", or why there is no time."""
    if row["ms"] is None:
        return row["note"]
    ratio = "" if row["contestant"] == PUBLISHED else f" ({row['speed_up']:.2g}x)"
    if row["speed_up"] >= 10:
        ratio = f" ({row['speed_up']:.0f}x)"
    return f"{number(row['ms'])}{ratio}"


def number(value: float) -> str:
    """Three digits, no exponent: 0.123, 12.3, 1,230."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def shape_of(row: Record) -> Shape:
    return row["B"], row["N"], row["H"], row["D"]


def shape_name(shape: Shape) -> str:
    """B1 N4096 H8 D48."""
    return " ".join(f"{letter}{size}" for letter, size in zip("BNHD", shape))


def name_of(contestant: str) -> str:
    return CONTESTANTS[contestant].label


def unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _lines(cells: dict[tuple[str, Any], str], columns: Sequence[Any]) -> list[list[str]]:
    names = [name for name in CONTESTANTS if any((name, column) in cells for column in columns)]
    return [[name_of(name), *(cells.get((name, column), "") for column in columns)] for name in names]
