"""Records as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Record = dict[str, Any]


def header(facts: Mapping[str, str]) -> str:
    """One line a fact."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def pivot(
    records: Iterable[Record],
    column: str | Callable[[Record], Any],
    cell: Callable[[Record], str],
    labels: Mapping[Any, str],
    *,
    row: str = "contestant",
    head: Callable[[Any], str] = str,
    last: Mapping[str, str] | None = None,
    last_head: str = "",
) -> str:
    """A table with a line for each value of `row` (in the order of `labels`, under that name), a column for each value
    of `column` (in order of appearance), and where given a last column."""
    key = column if callable(column) else (lambda record: record[column])
    cells = {(r[row], key(r)): cell(r) for r in records}
    columns = unique(key for _, key in cells)
    names = [name for name in labels if any(name == there for there, _ in cells)]
    tail = [] if last is None else [last_head]
    lines = [
        [labels[name], *(cells.get((name, c), "") for c in columns), *([] if last is None else [last.get(name, "")])]
        for name in names
    ]
    return markdown(["", *map(head, columns), *tail], lines)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def timed(over: str = "speed_up", base: str | None = None, key: str = "ms") -> Callable[[Record], str]:
    """A cell such as "12.3 (4.5x)" from a record's `key` and its ratio `over` (none beside `base`), or its note."""

    def cell(record: Record) -> str:
        if record.get(key) is None:
            return record.get("note") or ""
        if record["contestant"] == base or record.get(over) is None:
            return number(record[key])
        return f"{number(record[key])} ({times(record[over])})"

    return cell


def mebibytes(record: Record) -> str:
    """A cell from a record's bytes, or its note."""
    if record.get("bytes") is None:
        return record.get("note") or "not measured"
    return number(record["bytes"] / 2**20)


def times(factor: float) -> str:
    """4.52x, 45x, 0.0031x."""
    return f"{factor:,.0f}x" if factor >= 10 else f"{factor:.2g}x" if factor < 1 else f"{factor:.2f}x"


def number(value: float) -> str:
    """Three digits, no exponent: 0.123, 12.3, 1,230."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1e-3 or value == 0 else f"{value:.5f}"


def tokens(count: int) -> str:
    """512, 4k, 1M."""
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if count % size == 0:
            return f"{count // size}{letter}"
    return f"{count:,}"


def shape_of(record: Record) -> tuple[int, int, int, int]:
    return record["B"], record["N"], record["H"], record["D"]


def shape_name(shape: tuple[int, int, int, int]) -> str:
    """B1 N4096 H8 D48."""
    return " ".join(f"{letter}{size}" for letter, size in zip("BNHD", shape))


def unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
