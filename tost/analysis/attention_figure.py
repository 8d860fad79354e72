"""Where the [CLS] token looks: its softmax over the patches, by head."""

# N tokens = rows x columns of patches, H heads

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tost.analysis.pictures import as_picture, column_names, enlarge, head_colour, show_picture, show_share
from tost.analysis.statistics import entropy
from tost.analysis.style import Drawing, Theme


@dataclass(frozen=True)
class Attended:
    """A picture and the attention over it: class-attention layer -> [H, N]."""

    title: str
    image: Tensor
    grid: tuple[int, int]
    attention: Mapping[str, Tensor]


def attention_figure(pictures: Sequence[Attended], smooth: bool = True) -> Drawing:
    """One row per picture and class-attention layer: the picture, then a map for each head."""
    lines = [(one, layer) for one in pictures for layer in one.attention]
    heads = next(iter(pictures[0].attention.values())).shape[0]

    def draw(figure: Any, theme: Theme) -> None:
        tall = [one.image.shape[-2] / one.image.shape[-1] for one, _ in lines]
        panels = figure.subplots(len(lines), heads + 1, squeeze=False, height_ratios=tall)
        for line, (one, layer) in zip(panels, lines):
            picture = as_picture(one.image)
            show_picture(line[0], picture)
            line[0].set_ylabel(f"{one.title}\n{layer}", fontsize=8)
            maps = enlarge(one.attention[layer].t(), one.grid, picture.shape[:2], smooth)
            for head, panel in enumerate(line[1:]):
                show_share(panel, maps[head], head_colour(theme, head))
        names = [("", theme.text), *((f"head {head + 1}", head_colour(theme, head)) for head in range(heads))]
        column_names(panels[0], names)

    rows = [
        {
            "picture": one.title,
            "layer": layer,
            "head": head + 1,
            "largest": float(weights.max()),
            "effective_patches": float(entropy(weights / weights.sum()).exp()),
            "on_cls": 1 - float(weights.sum()),
        }
        for one, layer in lines
        for head, weights in enumerate(one.attention[layer])
    ]
    inches = min(1.75, 16 / (heads + 1))
    tall = sum(inches * one.image.shape[-2] / one.image.shape[-1] + 0.22 for one, _ in lines)
    alt = f"Attention of the [CLS] token over {len(pictures)} pictures, {heads} heads."
    return Drawing(draw, (inches * (heads + 1) + 0.3, tall + 0.25), alt, rows, dpi=120)
