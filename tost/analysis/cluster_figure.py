"""Memberships as a clustering of the patches, beside k-means of the same tokens."""

# N tokens = rows x columns of patches, H heads, C features

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tost.analysis.pictures import as_map, as_picture, column_names, show_clusters, show_picture
from tost.analysis.style import Drawing, Theme
from tost.extras import require


@dataclass(frozen=True)
class Clustered:
    """A picture and its clusterings.  labels: layer -> method -> [N], alike in every picture of a figure."""

    title: str
    image: Tensor
    grid: tuple[int, int]
    labels: Mapping[str, Mapping[str, Tensor]]


def kmeans(features: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Labels [N] of scikit-learn's k-means on features [N, C], always the same for the same features."""
    KMeans = require("sklearn.cluster", extra="training").KMeans
    distinct = len(torch.unique(features, dim=0))
    model = KMeans(min(clusters, distinct), n_init=4, random_state=seed)
    return torch.from_numpy(model.fit_predict(features.float().numpy()).astype("int64"))


def cluster_figure(pictures: Sequence[Clustered]) -> Drawing:
    """One row per picture: the picture, then a column for every layer and method. Colours mean nothing across columns.

    Only those of heads are the same in all pictures: a head keeps its colour, k-means numbers its clusters anew.
    """
    heads = [(layer, method) for layer, methods in pictures[0].labels.items() for method in methods]

    def draw(figure: Any, theme: Theme) -> None:
        tall = [one.image.shape[-2] / one.image.shape[-1] for one in pictures]
        panels = figure.subplots(len(pictures), len(heads) + 1, squeeze=False, height_ratios=tall)
        for line, one in zip(panels, pictures):
            picture = as_picture(one.image)
            show_picture(line[0], picture)
            line[0].set_ylabel(one.title, fontsize=8)
            for panel, (layer, method) in zip(line[1:], heads):
                show_clusters(panel, picture, as_map(one.labels[layer][method], one.grid, picture.shape[:2]), theme)
        names = [("", theme.text), *((f"{layer}\n{method}", theme.text) for layer, method in heads)]
        column_names(panels[0], names, lift=5)

    rows = [
        {"picture": one.title, "layer": layer, "method": method, "cluster": cluster + 1, "tokens": int(size)}
        for one in pictures
        for layer, methods in one.labels.items()
        for method, labels in methods.items()
        for cluster, size in enumerate(torch.bincount(labels))
    ]
    inches = min(1.75, 13 / (len(heads) + 1))
    tall = sum(inches * one.image.shape[-2] / one.image.shape[-1] + 0.08 for one in pictures)
    alt = f"Clusterings of the patches of {len(pictures)} pictures by memberships and by k-means."
    return Drawing(draw, (inches * (len(heads) + 1), tall + 0.5), alt, rows, dpi=120)
