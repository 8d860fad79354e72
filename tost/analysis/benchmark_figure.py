"""Time and memory over the number of tokens, with the power of N that each contestant follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tost.analysis.style import Drawing, Theme

Points = list[tuple[int, float]]

# contestant: name beside the line, place in the palette, line
LINES = {
    "softmax": ("softmax, unfused", 1, "-"),
    "sdpa": ("softmax, fused", 4, "-"),
    "published": ("published formula", 3, "-"),
    "compiled": ("published, compiled", 3, ":"),
    "eager": ("tost, eager", 2, "-"),
    "cpu": ("tost, cpu", 0, "-"),
    "clone": ("copying w", 7, "--"),
}


def benchmark_figure(result: Mapping[str, Any], direction: str = "forward+backward") -> Drawing:
    """What `tost bench ops` found over tokens: a row for each operator, time to the left, memory to the right.

    result: its JSON.  A shape takes part if three numbers of tokens were measured with its B, H and D.
    Raises ValueError if there is no such shape.
    """
    shape = _swept_shape(result["times"])
    panels = {
        op: (
            curves(result["times"], "ms", op, direction, shape),
            curves(result["memory"], "bytes", op, direction, shape, 2**-20),
        )
        for op in ("full", "causal")
    }

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots(2, 2, sharex=True)
        for line, (op, (time, memory)) in zip(axes, panels.items()):
            for panel, series, title in zip(line, (time, memory), (f"{op}: milliseconds", f"{op}: peak MiB")):
                _panel(panel, series, title, theme)
        for panel in axes[1]:
            panel.set_xlabel("tokens")

    B, H, D = shape
    rows = [{key: value for key, value in row.items() if key != "quartiles_ms"} for row in result["times"]]
    rows += [
        {
            "contestant": r["contestant"],
            "op": r["op"],
            "direction": r["direction"],
            "B": r["B"],
            "N": r["N"],
            "H": r["H"],
            "D": r["D"],
            "peak_bytes": r["bytes"],
        }
        for r in result["memory"]
    ]
    alt = f"Time and peak memory of {direction} over tokens, B{B} H{H} D{D}, both axes logarithmic."
    return Drawing(draw, (9.2, 6.6), alt, rows)


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
        if (r["op"], r["direction"], (r["B"], r["H"], r["D"])) == (op, direction, shape) and r[key]:
            found.setdefault(r["contestant"], []).append((r["N"], r[key] * scale))
    return {name: sorted(points) for name, points in found.items()}


def exponent(points: Points) -> float | None:
    """The power p of value = c N^p, by least squares of the logarithms; None with fewer than three points."""
    if len(points) < 3:
        return None
    n, value = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(n, value, 1)[0])


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
        colour, ours = theme.series[place], name in ("eager", "cpu")
        panel.loglog(
            *zip(*points),
            line,
            marker="o" if len(points) < 9 else None,
            color=colour,
            linewidth=2.6 if ours else 1.6,
            markersize=5 if ours else 3.5,
            zorder=3 if ours else 2,
        )
        power = exponent(points)
        ends.append((*points[-1], label if power is None else f"{label}  $N^{{{power:.2f}}}$", colour))
    panel.set_title(title)
    tokens = sorted({n for points in series.values() for n, _ in points})
    if not tokens:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=theme.quiet)
        return
    panel.set_xticks(tokens, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in tokens])
    panel.set_xticks([], minor=True)
    panel.set_xlim(tokens[0] * 0.85, tokens[-1] * 7.5)
    _label_ends(panel, ends, tokens[-1])


def _label_ends(panel: Any, ends: list[tuple[int, float, str, str]], last: int) -> None:
    """Names at the right, in the order of the values and far enough apart to be read."""
    low, high = np.log10(panel.get_ylim())
    gap, place = (high - low) * 0.075, -np.inf
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
