"""Scores of several methods as bars, and their masks over photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tost.analysis.pictures import as_picture, bare, column_names, rgb, show_picture
from tost.analysis.style import Drawing, Theme

MEASURES = {"iou": "IoU of the object", "ari": "adjusted Rand index"}


def score_figure(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Means with their 95% intervals, a colour for each model.  rows: of `score_table`."""
    models = list(dict.fromkeys(r["model"] for r in rows))
    labels = [f"{r['model']}: {r['method']}" for r in rows]
    places = range(len(rows))

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (key, title) in zip(panels, MEASURES.items()):
            for place, row in zip(places, rows):
                if row[key] is None:
                    continue
                colour = theme.series[models.index(row["model"])]
                panel.barh(place, row[key], 0.72, color=colour)
                panel.plot([row[f"{key}_low"], row[f"{key}_high"]], [place, place], color=theme.text, linewidth=1.3)
                right = max(row[f"{key}_high"], 0)
                panel.annotate(f" {row[key]:.3f}", (right, place), va="center", fontsize=8)
            panel.set_title(title)
            panel.axvline(0, color=theme.quiet, linewidth=0.9)
            panel.margins(x=0.14)
            panel.grid(axis="y", visible=False)
        panels[0].set_yticks(list(places), labels)
        for panel in panels:
            panel.tick_params(axis="y", length=0)
        panels[0].invert_yaxis()

    told = "; ".join(f"{label} {r['iou']:.3f}" for label, r in zip(labels, rows) if r["iou"] is not None)
    return Drawing(draw, (9.2, 0.3 * len(rows) + 0.9), f"IoU of the object: {told}.", rows)


@dataclass(frozen=True)
class Segmented:
    """A photograph, where its mask counts, and what is taken for the object by the mask and by methods: [H, W] bool.

    image: [3, kH, kW].
    """

    title: str
    image: Tensor
    valid: Tensor
    masks: Mapping[str, Tensor]


def masks_figure(pictures: Sequence[Segmented]) -> Drawing:
    """One row per photograph: the photograph, the mask it came with, the methods' masks. What is no object is dark."""
    names = list(pictures[0].masks)

    def draw(figure: Any, theme: Theme) -> None:
        tall = [one.image.shape[-2] / one.image.shape[-1] for one in pictures]
        panels = figure.subplots(len(pictures), len(names) + 1, squeeze=False, height_ratios=tall)
        for line, one in zip(panels, pictures):
            picture = as_picture(one.image)
            show_picture(line[0], picture)
            for index, (panel, name) in enumerate(zip(line[1:], names)):
                tint = rgb(theme.series[index % len(theme.series)])
                shown = np.where(_fitted(one.masks[name], picture), 0.45 * tint + 0.55 * picture, 0.25 * picture)
                panel.imshow(np.clip(np.where(_fitted(one.valid, picture) | (index > 0), shown, 0.5), 0, 1))
                bare(panel)
        column_names(panels[0], [("", theme.text), *((name, theme.text) for name in names)], lift=5)

    rows = [
        {"picture": one.title, "mask": name, "share_of_pixels": float(mask.float().mean())}
        for one in pictures
        for name, mask in one.masks.items()
    ]
    inches = min(2.0, 13 / (len(names) + 1))
    tall = sum(inches * one.image.shape[-2] / one.image.shape[-1] + 0.06 for one in pictures)
    alt = f"Masks of {len(pictures)} photographs by {', '.join(names)}."
    return Drawing(draw, (inches * (len(names) + 1), tall + 0.5), alt, rows, dpi=120)


def _fitted(mask: Tensor, picture: np.ndarray) -> np.ndarray:
    """[H, W] bool -> [height, width, 1] of a picture that is a whole number of times as large."""
    down, across = picture.shape[0] // mask.shape[0], picture.shape[1] // mask.shape[1]
    return mask.repeat_interleave(down, 0).repeat_interleave(across, 1).numpy()[..., None]
