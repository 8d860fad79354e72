"""Time per token and size of the state over the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tost.analysis.style import Drawing, Theme


def growth_figure(records: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> Drawing:
    """Two panels, a line for each contestant of `labels` (its name there), in this order of colours.

    records: {"contestant", "context", "ms", "state_bytes"}.  Raises ValueError if a contestant has none.
    """
    lines = {
        name: sorted((r for r in records if r["contestant"] == name), key=lambda r: r["context"]) for name in labels
    }
    for name, line in lines.items():
        if not line:
            raise ValueError(f"growth_figure expects records of {name!r}, got none")
    contexts = sorted({r["context"] for r in records})

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(1, 2)
        for panel, key, scale, title in zip(
            panels, ("ms", "state_bytes"), (1, 2**-10), ("one more token: milliseconds", "kept between tokens: KiB")
        ):
            for (name, line), colour in zip(lines.items(), theme.series):
                values = [r[key] * scale for r in line]
                panel.loglog([r["context"] for r in line], values, "-o", color=colour)
                panel.annotate(
                    f"{labels[name]}\n{values[-1]:,.3g}" if values[-1] < 100 else f"{labels[name]}\n{values[-1]:,.0f}",
                    (contexts[-1], values[-1]),
                    (8, 0),
                    textcoords="offset points",
                    color=colour,
                    va="center",
                )
            panel.margins(y=0.15)
            panel.set_title(title)
            panel.set_xlabel("tokens of context")
            panel.set_xticks(contexts, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in contexts])
            panel.set_xticks([], minor=True)
            panel.set_xlim(contexts[0] * 0.8, contexts[-1] * (contexts[-1] / contexts[0]) ** 0.35)

    told = "; ".join(
        f"{labels[name]} from {line[0]['ms']:.2g} to {line[-1]['ms']:.2g} ms" for name, line in lines.items()
    )
    return Drawing(
        draw, (9.2, 3.6), f"Time per token and size of the state over the context, logarithmic: {told}.", records
    )
