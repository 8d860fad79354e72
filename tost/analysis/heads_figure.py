"""How many heads share a token: over the layers, and over the number of tokens (the dilution)."""

# L layers, H heads

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tost.analysis.panels import layer_lines, level, set_lines
from tost.analysis.statistics import Gathered
from tost.analysis.style import Drawing, Theme


def heads_figure(gathered: Mapping[str, Gathered]) -> Drawing:
    """Effective heads of a token, exp of the entropy of its memberships, and that entropy; means and spreads."""
    rows: list[dict[str, Any]] = [
        {
            "set": name,
            "layer": number,
            "module": module,
            "tokens": sums.effective.count,
            "heads": sums.heads,
            "effective_mean": sums.effective.mean,
            "effective_sd": sums.effective.sd,
            "entropy_mean": sums.entropy.mean,
            "entropy_sd": sums.entropy.sd,
        }
        for name, found in gathered.items()
        for number, (module, sums) in enumerate(found.layers.items(), 1)
        if sums.heads
    ]
    heads = rows[0]["heads"]

    def draw(figure: Any, theme: Theme) -> None:
        for panel, key, title, most, text in zip(
            figure.subplots(1, 2),
            ("effective", "entropy"),
            ("effective heads of a token", "entropy of memberships, nats"),
            (heads, math.log(heads)),
            (f"all {heads} alike", f"log {heads}"),
        ):
            means = {name: [r[f"{key}_mean"] for r in rows if r["set"] == name] for name in gathered}
            sds = {name: [r[f"{key}_sd"] for r in rows if r["set"] == name] for name in gathered}
            set_lines(panel, theme, means, sds, most, "lower left")
            level(panel, theme, most, text)
            panel.margins(y=0.12)
            panel.set_title(title)

    return Drawing(draw, (9.2, 3.4), "Effective number of heads per token and entropy over the layers.", rows)


def dilution_figure(rows: Sequence[Mapping[str, Any]], over: str) -> Drawing:
    """Effective heads, and the distance from equal shares in nats, over `over`: a line for each layer.

    rows: {"layer", over, "heads", "effective", "from_uniform"}, the last log H minus the entropy.
    """
    layers = sorted({r["layer"] for r in rows})
    x = sorted({r[over] for r in rows})
    found = {(r["layer"], r[over]): r for r in rows}
    heads = rows[0]["heads"]

    def draw(figure: Any, theme: Theme) -> None:
        for panel, key, title in zip(
            figure.subplots(1, 2),
            ("effective", "from_uniform"),
            ("effective heads of a token", "distance from equal shares, nats"),
        ):
            lines = [[found[layer, n][key] for n in x] for layer in layers]
            layer_lines(panel, theme, x, lines, "o-")
            panel.set_xscale("log", base=2)
            shown = x if len(x) <= 7 else x[:: -(-len(x) // 7)]
            panel.set_xticks(shown, [f"{n:,.0f}" for n in shown])
            panel.set_xticks([], minor=True)
            panel.set_xlabel(over)
            panel.set_title(title)
        left, right = figure.axes
        level(left, theme, heads, f"all {heads} alike")
        left.margins(y=0.12)
        if all(r["from_uniform"] > 0 for r in rows):
            right.set_yscale("log")
        right.legend(fontsize=8)

    alt = f"Effective heads of a token and distance from equal shares over {over}."
    return Drawing(draw, (9.2, 3.5), alt, rows)
