"""Lines as SVG in the page: they take its colours, by day and by night, and cost less than a token to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 350, 215
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 10, 34  # margins within them
Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """A name, points, a place in the palette; dashed where nothing was measured."""

    name: str
    points: Points
    place: int
    dashed: bool = False
    marks: bool = False


class Axis:
    """From a range of values to places on the page."""

    def __init__(self, values: Sequence[float], low: float, high: float, log: bool, zero: bool = False) -> None:
        self.log, self.low, self.high = log, low, high
        with_zero = [*values, 0.0] if zero and not log else values
        self.start, self.end = min(with_zero), max(with_zero)
        if self.end <= self.start:
            self.end = self.start * 2 if log else self.start + (abs(self.start) or 1.0)

    def place(self, value: float) -> float:
        """Where a value lies."""
        start, end = (math.log(self.start), math.log(self.end)) if self.log else (self.start, self.end)
        at = math.log(value) if self.log else value
        return self.low + (at - start) / (end - start) * (self.high - self.low)

    def ticks(self) -> list[float]:
        """Four to eight round values."""
        if not self.log:
            rough = (self.end - self.start) / 4
            size = 10 ** math.floor(math.log10(rough))
            step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough)
            first = math.ceil(self.start / step)
            return [step * n for n in range(first, math.floor(self.end / step + 1e-9) + 1)]
        first, last = math.floor(math.log10(self.start)), math.ceil(math.log10(self.end))
        digits = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 4 else (1,)
        every = (last - first + 5) // 6
        found = [n * 10.0**power for power in range(first, last + 1, every) for n in digits]
        return [value for value in found if self.start <= value <= self.end] or [self.start, self.end]


def chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    *,
    told: str = "",
    log: bool = False,
    zero: bool = True,
    ticks: Sequence[float] | None = None,
    unit: str = "",
) -> str:
    """A card with a title, a sentence, a key with the last values, and the lines.

    log: both axes.  zero: is on the vertical axis.  ticks: of the horizontal axis.
    """
    key = "".join(
        f"<span><i style='background:var(--head-{line.place})'></i>{escape(line.name)} "
        f"<em>{short(line.points[-1][1])}{escape(unit)}</em></span>"
        for line in lines
        if line.points
    )
    words = f"<p>{escape(told)}</p>" if told else ""
    return (
        f"<div class='tost-card'><h3>{escape(title)}</h3>{words}<div class='tost-key'>{key}</div>"
        f"{svg([line for line in lines if line.points], title, x_label, log, zero, ticks)}</div>"
    )


def svg(
    lines: Sequence[Line], title: str, x_label: str, log: bool, zero: bool, ticks: Sequence[float] | None = None
) -> str:
    """The picture alone."""
    xs = [x for line in lines for x, _ in line.points] or [1.0]
    ys = [y for line in lines for _, y in line.points] or [1.0]
    across = Axis(xs, LEFT, WIDTH - RIGHT, log)
    up = Axis(ys, HEIGHT - BOTTOM, TOP, log, zero)
    parts = []
    for value in up.ticks():
        y = up.place(value)
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{LEFT - 7}' y='{y + 4:.1f}' text-anchor='end'>{short(value)}</text>")
    for value in ticks or across.ticks():
        x = across.place(value)
        parts.append(f"<text x='{x:.1f}' y='{HEIGHT - BOTTOM + 15}' text-anchor='middle'>{short(value)}</text>")
    base = HEIGHT - BOTTOM if log or not zero else up.place(0)
    parts.append(f"<line class='axis' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{base}' y2='{base}'/>")
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f"<text x='{middle}' y='{HEIGHT - 3}' text-anchor='middle'>{escape(x_label)}</text>")
    parts += [_line(line, across, up) for line in lines]
    return (
        f"<svg class='tost-chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{escape(title, quote=True)}'>{''.join(parts)}</svg>"
    )


def _line(line: Line, across: Axis, up: Axis) -> str:
    colour = f"var(--head-{line.place})"
    places = [(across.place(x), up.place(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = " stroke-dasharray='5 4'" if line.dashed else ""
    drawn = (
        f"<polyline points='{path}' fill='none' style='stroke:{colour}' stroke-width='2.2' stroke-linejoin='round'"
        f"{dash}><title>{escape(line.name)}</title></polyline>"
    )
    if line.marks or len(places) == 1:
        drawn += "".join(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.6' style='fill:{colour}'>"
            f"<title>{escape(line.name)}: {short(value[1])} at {short(value[0])}</title></circle>"
            for (x, y), value in zip(places, line.points)
        )
    return drawn


def short(value: float) -> str:
    """Three digits, thousands apart: 0.0123, 4.56, 78.9, 1,234, 16k where that is exact; a minus that is one."""
    if value >= 2**14 and value % 1024 == 0:
        return f"{value / 1024:,.0f}k"
    if abs(value) < 1e-9:
        return "0"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
