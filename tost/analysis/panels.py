"""What panels of curves share: an axis of layers, lines of sets, lines of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tost.analysis.style import Theme, ramp


def over_layers(panel: Any, layers: int) -> None:
    """The x axis counts blocks from 1."""
    step = max(1, layers // 12)
    panel.set_xticks(range(1, layers + 1, step))
    panel.set_xlim(0.4, layers + 0.6)
    panel.grid(axis="x", visible=False)
    panel.set_xlabel("block")


MARKS = ("o-", "s--", "^:")  # sets whose lines coincide are told apart by their marks


def set_lines(
    panel: Any,
    theme: Theme,
    means: Mapping[str, Sequence[float]],
    sds: Mapping[str, Sequence[float]] | None = None,
    most: float = math.inf,
    legend: str = "best",
) -> None:
    """A line for each set over the layers, with a band of one standard deviation (cut at `most`) where given."""
    for index, (name, values) in enumerate(means.items()):
        colour, x = theme.series[index], range(1, len(values) + 1)
        if sds:
            low = [m - s for m, s in zip(values, sds[name])]
            high = [min(m + s, most) for m, s in zip(values, sds[name])]
            panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.plot(x, values, MARKS[index % len(MARKS)], label=name, **line_style(theme, index))
    over_layers(panel, max(map(len, means.values())))
    panel.legend(fontsize=8, loc=legend)


def line_style(theme: Theme, index: int) -> dict[str, Any]:
    """Colour and markers of the set that comes `index`-th: only the first one's markers are filled."""
    colour = theme.series[index]
    return {"color": colour, "markerfacecolor": theme.ground if index else colour, "markeredgewidth": 1.4}


def layer_lines(
    panel: Any, theme: Theme, x: Sequence[float], lines: Sequence[Sequence[float]], marker: str = "-"
) -> None:
    """A line for each layer, early ones dark; the legend names a few."""
    named = sorted({0, len(lines) // 3, 2 * len(lines) // 3, len(lines) - 1})
    for number, (values, colour) in enumerate(zip(lines, ramp(theme, len(lines)))):
        label = f"block {number + 1}" if number in named else None
        panel.plot(x, values, marker, color=colour, label=label, linewidth=1.6, markersize=4)


def level(panel: Any, theme: Theme, height: float, text: str) -> None:
    """A dotted horizontal line with its meaning at the left end."""
    panel.axhline(height, color=theme.quiet, linestyle=":", linewidth=1.2)
    panel.annotate(
        text,
        (0.01, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        color=theme.quiet,
    )
