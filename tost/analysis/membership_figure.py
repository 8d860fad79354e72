"""Where each head looks: memberships over the image they came from."""

# N tokens = rows x columns of patches, H heads

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tost.analysis.pictures import as_picture, column_names, enlarge, head_colour, show_clusters, show_share
from tost.analysis.style import Drawing, Theme

WIDTH = 16.0  # inches at most


def membership_figure(
    image: Tensor, memberships: Mapping[str, Tensor], grid: tuple[int, int], smooth: bool = True
) -> Drawing:
    """One row per layer: which head holds each patch, then how much of each patch every head takes.

    image: [H, W] or [3, H, W] in 0 to 1.  memberships: layer -> [N, heads], N = rows * columns of `grid`.
    Maps are enlarged to the image, smoothly or as squares. Each is drawn between its own 1st and 99th percentile, which
    stand above it.
    Raises ValueError if the memberships don't fill the grid.
    """
    rows, columns = grid
    for layer, pi in memberships.items():
        if pi.ndim != 2 or pi.shape[0] != rows * columns:
            raise ValueError(
                f"membership_figure expects memberships of shape [{rows * columns}, heads] for a grid of "
                f"{rows} x {columns} patches, got {list(pi.shape)} for {layer}; take one image of the batch"
            )
    heads = next(iter(memberships.values())).shape[1]
    picture = as_picture(image)
    height, width = picture.shape[:2]
    maps = {layer: enlarge(pi, grid, (height, width), smooth) for layer, pi in memberships.items()}

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(len(maps), heads + 1, squeeze=False)
        for line, (layer, shares) in zip(panels, maps.items()):
            show_clusters(line[0], picture, shares.argmax(0), theme)
            line[0].set_ylabel(layer, rotation=90, labelpad=6)
            for head, panel in enumerate(line[1:]):
                show_share(panel, shares[head], head_colour(theme, head))
        names = [("strongest head", theme.text)]
        names += [(f"head {head + 1}", head_colour(theme, head)) for head in range(heads)]
        column_names(panels[0], names)

    inches = min(1.75, WIDTH / (heads + 1))
    size = (inches * (heads + 1), len(maps) * (inches * height / width + 0.2) + 0.25)
    alt = f"Memberships of {heads} heads over a photograph in {len(maps)} layers: {', '.join(maps)}."
    return Drawing(draw, size, alt, _rows(memberships), dpi=120)


def _rows(memberships: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Mean, spread and how often it is the strongest, of every layer and head."""
    return [
        {
            "layer": layer,
            "head": head + 1,
            "mean": float(pi[:, head].mean()),
            "sd": float(pi[:, head].std()),
            "strongest_share": float((pi.argmax(1) == head).float().mean()),
        }
        for layer, pi in memberships.items()
        for head in range(pi.shape[1])
    ]
