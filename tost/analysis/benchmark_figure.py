"""Time and memory over the number of tokens, with the power of N that each contestant follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tost.analysis.growth_law import exponent, tail
from tost.analysis.style import Drawing, Theme

Points = list[tuple[int, float]]

# contestant: name beside the line, place in the palette, line
LINES = {
    "softmax": ("softmax, unfused", 1, "-"),
    "sdpa": ("softmax, fused", 4, "-"),
    "published": ("published formula", 3, "-"),
    "compiled": ("published, compiled", 3, ":"),
    "xca": ("cross-covariance", 5, "-."),
    "linear": ("linear attention", 6, "-"),
    "linear_fla": ("linear attention, fla", 6, ":"),
    "state_space": ("state space", 5, ":"),
    "eager": ("tost, eager", 2, "-"),
    "cpu": ("tost, cpu", 0, "-"),
    "triton": ("tost, triton", 0, "-"),
    "clone": ("copying w", 7, "--"),
}
OURS = ("eager", "cpu", "triton")


def benchmark_figure(records: Iterable[Mapping[str, Any]], direction: str = "forward+backward") -> Drawing:
    """What `tost bench scale` found over tokens: a row for each operator, time to the left, memory to the right.

    records: its "time" and "peak" records.  Beside each name the power of N that fits the largest N.
    Raises ValueError if no shape was measured at two or more numbers of tokens.
    """
    rows = [r for r in records if r["what"] in ("time", "peak") and r["direction"] == direction]
    times, memory = ([r for r in rows if r["what"] == what] for what in ("time", "peak"))
    shape = _swept_shape(times)
    panels = {
        op: (curves(times, "ms", op, direction, shape), curves(memory, "bytes", op, direction, shape, 2**-20))
        for op in ("full", "causal")
    }

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots(2, 2, sharex=True)
        for line, (op, (time, peak)) in zip(axes, panels.items()):
            for panel, series, title in zip(line, (time, peak), (f"{op}: milliseconds", f"{op}: peak MiB")):
                _panel(panel, series, title, theme)
        for panel in axes[1]:
            panel.set_xlabel("tokens")

    B, H, D = shape
    alt = f"Time and peak memory of {direction} over tokens, B{B} H{H} D{D}, both axes logarithmic."
    shown = [
        {**{key: r[key] for key in ("contestant", "op", "direction", "B", "N", "H", "D")},
         "ms": r.get("ms"), "peak_bytes": r.get("bytes")}
        for r in rows
    ]  # fmt: skip
    return Drawing(draw, (9.6, 7.4), alt, shown)


def curves(
    records: Iterable[Mapping[str, Any]],
    key: str,
    op: str,
    direction: str,
    shape: tuple[int, int, int],
    scale: float = 1.0,
) -> dict[str, Points]:
    """contestant -> [(tokens, value)] where there is a value above zero."""
    found: dict[str, Points] = {}
    for r in records:
        if (r["op"], r["direction"], (r["B"], r["H"], r["D"])) == (op, direction, shape) and r.get(key):
            found.setdefault(r["contestant"], []).append((r["N"], r[key] * scale))
    return {name: sorted(points) for name, points in found.items()}


def _swept_shape(times: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    tokens: dict[tuple[int, int, int], set[int]] = {}
    for r in times:
        tokens.setdefault((r["B"], r["H"], r["D"]), set()).add(r["N"])
    shape, seen = max(tokens.items(), key=lambda item: len(item[1]), default=((0, 0, 0), set()))
    if len(seen) < 2:
        raise ValueError("benchmark_figure expects a shape measured at two or more numbers of tokens, got none")
    return shape


def _panel(panel: Any, series: Mapping[str, Points], title: str, theme: Theme) -> None:
    ends = []
    for name, (label, place, line) in LINES.items():
        points = series.get(name)
        if not points:
            continue
        colour, ours = theme.series[place], name in OURS
        panel.loglog(
            *zip(*points),
            line,
            marker="o" if len(points) < 9 else None,
            color=colour,
            linewidth=2.6 if ours else 1.6,
            markersize=5 if ours else 3.5,
            zorder=3 if ours else 2,
        )
        power = exponent(tail(points))
        ends.append((*points[-1], label if power is None else f"{label}  $N^{{{power:.2f}}}$", colour))
    panel.set_title(title)
    tokens = sorted({n for points in series.values() for n, _ in points})
    if not tokens:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=theme.quiet)
        return
    panel.set_xticks(tokens, [_short(n) for n in tokens])
    panel.set_xticks([], minor=True)
    panel.set_xlim(tokens[0] * 0.85, tokens[-1] * (tokens[-1] / tokens[0]) ** 0.75)
    _label_ends(panel, ends, tokens[-1])


def _short(count: int) -> str:
    """512, 4k, 1M."""
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def _label_ends(panel: Any, ends: list[tuple[int, float, str, str]], last: int) -> None:
    """Names at the right, in the order of the values and far enough apart to be read."""
    low, high = np.log10(panel.get_ylim())
    gap, place = (high - low) * 0.07, -np.inf
    ends.sort(key=lambda end: end[1])
    for n, value, label, colour in ends:
        place = max(np.log10(value), place + gap)
        panel.annotate(
            label,
            (n, value),
            (last * 1.25, 10**place),
            color=colour,
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.5, "shrinkB": 3},
        )
    panel.set_ylim(10**low, 10 ** max(high, place + gap))
