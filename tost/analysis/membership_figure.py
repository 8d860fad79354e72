"""Where each head looks: memberships over the image they came from."""

# N tokens = rows x columns of patches, H heads

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tost.analysis.style import Drawing, Theme


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
    picture = _as_picture(image)
    height, width = picture.shape[:2]
    maps = {layer: enlarge(pi, grid, (height, width), smooth) for layer, pi in memberships.items()}

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(len(maps), heads + 1, squeeze=False)
        for line, (layer, shares) in zip(panels, maps.items()):
            _overlay(line[0], picture, shares, theme)
            line[0].set_ylabel(layer, rotation=90, labelpad=6)
            for head, panel in enumerate(line[1:]):
                _share(panel, shares[head], theme.series[head % len(theme.series)])
        names = [("strongest head", theme.text)]
        names += [(f"head {head + 1}", theme.series[head % len(theme.series)]) for head in range(heads)]
        for panel, (name, colour) in zip(panels[0], names):
            panel.annotate(
                name,
                (0.5, 1),
                xycoords="axes fraction",
                xytext=(0, 15),
                textcoords="offset points",
                ha="center",
                weight="bold",
                color=colour,
            )

    table = [
        {
            "layer": layer,
            "head": head + 1,
            "mean": float(pi[:, head].mean()),
            "sd": float(pi[:, head].std()),
            "strongest_share": float((pi.argmax(1) == head).float().mean()),
        }
        for layer, pi in memberships.items()
        for head in range(heads)
    ]
    inches = 1.75
    size = (inches * (heads + 1), len(maps) * (inches * height / width + 0.2) + 0.25)
    alt = f"Memberships of {heads} heads over a photograph in {len(maps)} layers: {', '.join(maps)}."
    return Drawing(draw, size, alt, table, dpi=120)


def enlarge(pi: Tensor, grid: tuple[int, int], size: tuple[int, int], smooth: bool = True) -> Tensor:
    """[N, H] -> [H, height, width]; each map stays within the range it had."""
    maps = pi.detach().float().t().unflatten(1, grid)
    if not smooth:
        return F.interpolate(maps[None], size=size, mode="nearest")[0]
    large = F.interpolate(maps[None], size=size, mode="bicubic", align_corners=False)[0]
    return large.clamp(maps.amin((1, 2))[:, None, None], maps.amax((1, 2))[:, None, None])


def span(low: float, high: float) -> str:
    """Both numbers with as many digits as tell them apart: "0.2481 to 0.2513"."""
    digits = 2 if high <= low else min(6, max(2, 1 - int(np.floor(np.log10(high - low)))))
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _as_picture(image: Tensor) -> np.ndarray:
    """[height, width, 3] in 0 to 1."""
    image = image.detach().float().clamp(0, 1)
    image = image.expand(3, *image.shape[-2:]) if image.ndim == 2 or image.shape[0] == 1 else image
    return image.movedim(0, -1).numpy()


def _overlay(panel: Any, picture: np.ndarray, shares: Tensor, theme: Theme) -> None:
    """The photograph, tinted by the head that holds most of each place."""
    tints = np.array([_rgb(theme.series[head % len(theme.series)]) for head in range(len(shares))])
    grey = picture.mean(-1, keepdims=True)
    panel.imshow(np.clip(0.55 * tints[shares.argmax(0).numpy()] + 0.55 * grey - 0.05, 0, 1))
    _bare(panel)


def _share(panel: Any, share: Tensor, colour: str) -> None:
    """Black where the head takes least, through its colour, to white where it takes most."""
    low, high = np.percentile(share.numpy(), (1, 99))
    level = ((share - low) / max(high - low, 1e-12)).clamp(0, 1).numpy()[..., None]
    tint = _rgb(colour)
    panel.imshow(np.clip(np.where(level < 0.6, level / 0.6 * tint, tint + (level - 0.6) / 0.4 * (1 - tint)), 0, 1))
    panel.set_title(span(low, high), fontsize=7.5, weight="normal", loc="center", pad=2)
    _bare(panel)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _bare(panel: Any) -> None:
    panel.set_xticks([]), panel.set_yticks([])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)
