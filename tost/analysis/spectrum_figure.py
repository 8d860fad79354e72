"""How many directions the features of every layer use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tost.analysis.panels import layer_lines, set_lines
from tost.analysis.statistics import Gathered, effective_rank
from tost.analysis.style import Drawing, Theme


def spectrum_figure(gathered: Mapping[str, Gathered]) -> Drawing:
    """Singular values of every block's output over all tokens of a set, the largest as 1, and their effective rank."""
    values = {
        name: [sums.features.singular_values() for sums in found.layers.values()] for name, found in gathered.items()
    }
    ranks = {name: [effective_rank(one) for one in layers] for name, layers in values.items()}
    rows = [
        {
            "set": name,
            "layer": number + 1,
            "module": module,
            "tokens": sums.features.count,
            "effective_rank": ranks[name][number],
            "index": i + 1,
            "singular_value": float(value),
        }
        for name, found in gathered.items()
        for number, (module, sums) in enumerate(found.layers.items())
        for i, value in enumerate(values[name][number])
    ]

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(1, len(gathered) + 1)
        for panel, (name, layers) in zip(panels, values.items()):
            relative = [(one / one[0].clamp_min(1e-300)).clamp_min(1e-6).tolist() for one in layers]
            layer_lines(panel, theme, range(1, len(relative[0]) + 1), relative)
            panel.set_yscale("log")
            panel.set_title(f"singular values, {name}")
            panel.set_xlabel("index")
            panel.legend(fontsize=8)
        set_lines(panels[-1], theme, ranks)
        panels[-1].set_ylim(0, 1.2 * max(map(max, ranks.values())))
        panels[-1].set_title("effective rank")

    alt = "Singular values of the features after every block, and their effective rank."
    return Drawing(draw, (3.3 * (len(gathered) + 1), 3.4), alt, rows)
