"""How the compression rate moves from layer to layer."""

# L layers, B samples

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tost.analysis.style import Drawing, Theme
from tost.rates import RateRecord

STAGES = ("before", "mixed", "after")


def rate_figure(records: Mapping[str, RateRecord]) -> Drawing:
    """Rvar_c of every block's input, after its attention half, and of its output, for one or more sets of samples.

    Each block is measured in its own subspaces, so it is a stroke of its own, from its input to its output. The band
    is the standard deviation over the samples. Keys of `records` name the sets, such as "training" and "held-out".
    """
    rows = [
        {"set": name, "layer": i + 1, "module": layer, "samples": record.after.shape[1]}
        | {f"{stage}_mean": float(record.mean(stage)[i]) for stage in STAGES}
        | {f"{stage}_sd": float(record.spread(stage)[i]) for stage in STAGES}
        for name, record in records.items()
        for i, layer in enumerate(record.layers)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        for index, (name, record) in enumerate(records.items()):
            _strokes(axes, name, record, theme.series[index], 0.16 * (index - (len(records) - 1) / 2), theme)
        layers = next(iter(records.values())).layers
        axes.set_xticks(range(1, len(layers) + 1))
        axes.set_xlim(0.4, len(layers) + 0.6)
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("block")
        axes.set_ylabel("compression rate, nats per token")
        figure.legend(ncols=len(records), loc="outside upper center")

    falls = ", ".join(f"{name} {_fallen(record)} of {len(record.layers)}" for name, record in records.items())
    alt = f"Compression rate before and after every block. Blocks whose attention half lowers it: {falls}."
    return Drawing(draw, (7.2, 4.0), alt, rows)


def _strokes(axes: Any, name: str, record: RateRecord, colour: str, shift: float, theme: Theme) -> None:
    x = [i + 1 + shift for i in range(len(record.layers))]
    before, mixed, after = (record.mean(stage).tolist() for stage in STAGES)
    sd = record.spread("after").tolist()
    axes.fill_between(
        x, [a - s for a, s in zip(after, sd)], [a + s for a, s in zip(after, sd)], color=colour, alpha=0.13, linewidth=0
    )
    axes.plot(x, after, "-", color=colour, linewidth=1.2, alpha=0.7)
    for i, position in enumerate(x):
        axes.plot([position] * 2, [before[i], mixed[i]], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([position] * 2, [mixed[i], after[i]], color=colour, linewidth=1, linestyle=":")
    axes.plot(x, before, "o", color=colour, markerfacecolor=theme.ground, label=f"{name}: block's input")
    axes.plot(x, mixed, "_", color=colour, markersize=11, markeredgewidth=2, label=f"{name}: after attention")
    axes.plot(x, after, "o", color=colour, label=f"{name}: block's output")


def _fallen(record: RateRecord) -> int:
    return int((record.mean("mixed") < record.mean("before")).sum())
