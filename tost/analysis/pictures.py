"""What figures that lie over a picture share: enlarging maps, tinting by head, panels without axes."""

# N tokens = rows x columns of patches, H heads

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tost.analysis.style import Theme

SMALL = 64  # pixels: a picture with a shorter side is shown as squares, not smoothly


def enlarge(pi: Tensor, grid: tuple[int, int], size: tuple[int, int], smooth: bool = True) -> Tensor:
    """[N, H] -> [H, height, width]; each map stays within the range it had."""
    maps = pi.detach().float().t().unflatten(1, grid)
    if not smooth:
        return F.interpolate(maps[None], size=size, mode="nearest")[0]
    large = F.interpolate(maps[None], size=size, mode="bicubic", align_corners=False)[0]
    return large.clamp(maps.amin((1, 2))[:, None, None], maps.amax((1, 2))[:, None, None])


def visible(image: Tensor) -> Tensor:
    """[C, H, W] in 0 to 1, a small one as squares of at least SMALL pixels on the short side."""
    side = min(image.shape[-2:])
    if side >= SMALL:
        return image
    return F.interpolate(image[None], scale_factor=-(-2 * SMALL // side), mode="nearest")[0]


def span(low: float, high: float) -> str:
    """Both numbers with as many digits as tell them apart: "0.2481 to 0.2513"."""
    digits = 2 if high <= low else min(6, max(2, 1 - int(np.floor(np.log10(high - low)))))
    return f"{low:.{digits}f} to {high:.{digits}f}"


def as_picture(image: Tensor) -> np.ndarray:
    """[height, width, 3] in 0 to 1, of [H, W] or [C, H, W] (one channel, or three and more: the first three)."""
    image = image.detach().float().clamp(0, 1)
    if image.ndim == 2 or image.shape[0] < 3:
        image = image.reshape(-1, *image.shape[-2:])[:1].expand(3, -1, -1)
    return image[:3].movedim(0, -1).numpy()


def show_clusters(panel: Any, picture: np.ndarray, labels: Tensor, theme: Theme) -> None:
    """The photograph, tinted by the label [height, width] of each place."""
    tints = np.array([rgb(head_colour(theme, label)) for label in range(int(labels.max()) + 1)])
    grey = picture.mean(-1, keepdims=True)
    panel.imshow(np.clip(0.55 * tints[labels.numpy()] + 0.55 * grey - 0.05, 0, 1))
    bare(panel)


def show_share(panel: Any, share: Tensor, colour: str) -> None:
    """Black where [height, width] is least, through the colour, to white where it is most; both stand above."""
    low, high = np.percentile(share.numpy(), (1, 99))
    level = ((share - low) / max(high - low, 1e-12)).clamp(0, 1).numpy()[..., None]
    tint = rgb(colour)
    panel.imshow(np.clip(np.where(level < 0.6, level / 0.6 * tint, tint + (level - 0.6) / 0.4 * (1 - tint)), 0, 1))
    panel.set_title(span(low, high), fontsize=7.5, weight="normal", loc="center", pad=2)
    bare(panel)


def show_picture(panel: Any, picture: np.ndarray) -> None:
    """The photograph as it is."""
    panel.imshow(picture)
    bare(panel)


def head_colour(theme: Theme, head: int) -> str:
    """The colour of a head in every figure."""
    return theme.series[head % len(theme.series)]


def column_names(panels: Any, names: list[tuple[str, str]], lift: int = 15) -> None:
    """(name, colour) above each panel of a figure's first row."""
    for panel, (name, colour) in zip(panels, names):
        panel.annotate(
            name,
            (0.5, 1),
            xycoords="axes fraction",
            xytext=(0, lift),
            textcoords="offset points",
            ha="center",
            weight="bold",
            color=colour,
        )


def rgb(colour: str) -> np.ndarray:
    """[3] in 0 to 1 of "#rrggbb"."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def bare(panel: Any) -> None:
    """No ticks, no frame."""
    panel.set_xticks([]), panel.set_yticks([])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def strongest(pi: Tensor, grid: tuple[int, int], size: tuple[int, int], smooth: bool) -> Tensor:
    """[N, H] -> [height, width], the head that holds most of each place."""
    return enlarge(pi, grid, size, smooth).argmax(0)


def as_map(labels: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Labels of tokens [N] -> [height, width], as squares."""
    return enlarge(labels[:, None], grid, size, smooth=False)[0].to(torch.long)
