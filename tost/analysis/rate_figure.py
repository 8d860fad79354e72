"""How the compression rate moves from layer to layer."""

# L layers, B samples

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tost.analysis.panels import MARKS, line_style, over_layers
from tost.analysis.style import Drawing, Theme
from tost.rates import RateRecord

STAGES = ("before", "mixed", "after")


def rate_figure(records: Mapping[str, RateRecord], exact: Mapping[str, Tensor] | None = None) -> Drawing:
    """Rvar_c of every block's output, and how attention half and whole block change that of its input.

    Each block is measured in its own subspaces, so rates compare within a block. The band is the standard deviation
    over the samples. Keys of `records` name the sets, such as "training" and "held-out".
    exact: by set [L, B], the exact rate of the output, which Rvar_c bounds from above (dashed).
    """
    exact = exact or {}
    rows = [
        {"set": name, "layer": i + 1, "module": layer, "samples": record.after.shape[1]}
        | {f"{stage}_mean": float(record.mean(stage)[i]) for stage in STAGES}
        | {f"{stage}_sd": float(record.spread(stage)[i]) for stage in STAGES}
        | ({"exact_mean": float(exact[name][i].mean()), "exact_sd": _sd(exact[name][i])} if name in exact else {})
        for name, record in records.items()
        for i, layer in enumerate(record.layers)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        levels, changes = figure.subplots(1, 2)
        for index, (name, record) in enumerate(records.items()):
            _levels(levels, name, record, exact.get(name), theme, index)
        levels.set_ylim(bottom=0)
        levels.set_title("rate of a block's output, nats per token")
        _changes(changes, records, theme)
        changes.set_title("change within the block, %")
        for panel in (levels, changes):
            over_layers(panel, len(next(iter(records.values())).layers))
            panel.legend(fontsize=8)

    falls = ", ".join(f"{name} {fallen(record)} of {len(record.layers)}" for name, record in records.items())
    alt = f"Compression rate after every block, and its change within the block. Blocks that lower it: {falls}."
    return Drawing(draw, (9.2, 3.7), alt, rows)


def fallen(record: RateRecord, stage: str = "after") -> int:
    """How many blocks lower the rate of their input, by the end or after their attention half ("mixed")."""
    return int((record.mean(stage) < record.mean("before")).sum())


def _sd(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def _levels(axes: Any, name: str, record: RateRecord, exact: Tensor | None, theme: Theme, index: int) -> None:
    """The rate of each block's output, with one standard deviation over the samples."""
    style = line_style(theme, index)
    x = range(1, len(record.layers) + 1)
    mean, sd = record.mean("after").numpy(), record.spread("after").numpy()
    axes.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, mean, MARKS[index % len(MARKS)], label=name, **style)
    if exact is not None:
        axes.plot(x, exact.mean(1).numpy(), (":", "-.")[index % 2], color=style["color"], label=f"{name}: exact")


def _changes(axes: Any, records: Mapping[str, RateRecord], theme: Theme) -> None:
    """Bars of the attention half (hatched) and the whole block (solid), side by side for each set."""
    width = 0.8 / (2 * len(records))
    for index, (name, record) in enumerate(records.items()):
        for half, (stage, what) in enumerate((("mixed", "attention half"), ("after", "whole block"))):
            change = 100 * (record.mean(stage) / record.mean("before").clamp_min(1e-12) - 1).numpy()
            x = [i + 1 + (2 * index + half - len(records) + 0.5) * width for i in range(len(change))]
            colour = theme.series[index]
            face = {"facecolor": theme.ground, "hatch": "////"} if stage == "mixed" else {"facecolor": colour}
            axes.bar(x, change, width * 0.9, edgecolor=colour, linewidth=0.8, label=f"{name}: {what}", **face)
    axes.axhline(0, color=theme.quiet, linewidth=0.9)
