"""Memberships and attention as small pictures in HTML."""

# N tokens = rows x columns patches, H heads

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from tost.analysis.pictures import SMALL, enlarge, span
from tost.app.palette import HEADS, head_colour, rgb
from tost.extras import require

SIDE = 288  # pixels along the long side of a map
SQUARES = 10  # grids with a side of fewer patches are drawn as squares


def size_of(grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the maps of a grid."""
    scale = SIDE / max(grid)
    return max(1, round(grid[0] * scale)), max(1, round(grid[1] * scale))


def membership_maps(picture: np.ndarray, shares: Tensor, grid: tuple[int, int]) -> str:
    """The picture, which head holds each place, and the share of every head.  shares: [N, H]."""
    maps = enlarge(shares, grid, size_of(grid), min(grid) >= SQUARES).numpy()
    figures = [
        figure(shown(picture, grid), "the picture", f"{grid[0]} x {grid[1]} patches"),
        figure(strongest(picture, maps), "strongest head", ""),
    ]
    held = shares.argmax(1)
    for head, values in enumerate(maps):
        told = f"{float((held == head).float().mean()):.0%} of the patches are its own"
        name, colour = f"head {head + 1}", f"var(--head-{head % len(HEADS)})"
        figures.append(figure(ramp(values, head_colour(head)), name, limits(values), colour, told))
    return side_by_side(figures)


def attention_maps(weights: Tensor, grid: tuple[int, int]) -> str:
    """How [CLS] shares its attention among the patches, head by head.  weights: [H, N]."""
    maps = enlarge(weights.t(), grid, size_of(grid), min(grid) >= SQUARES).numpy()
    return side_by_side(figure(ramp(m, head_colour(0)), f"head {i + 1}", limits(m)) for i, m in enumerate(maps))


def shown(picture: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The picture at the size of the maps."""
    pil = require("PIL.Image", extra="app")
    height, width = size_of(grid)
    return np.array(pil.fromarray(picture).resize((width, height), how(picture)))


def how(picture: np.ndarray) -> Any:
    """How a picture is resized: one of few pixels as squares."""
    resampling = require("PIL.Image", extra="app").Resampling
    return resampling.BICUBIC if min(picture.shape[:2]) >= SMALL else resampling.NEAREST


def strongest(picture: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The picture in grey, tinted by the head that holds most of each place.  maps: [H, height, width]."""
    pil = require("PIL.Image", extra="app")
    grey = np.asarray(pil.fromarray(picture).convert("L").resize((maps.shape[2], maps.shape[1]), how(picture)))
    tints = np.array([rgb(head_colour(head)) for head in range(len(maps))])[maps.argmax(0)]
    return (0.55 * tints + 0.55 * grey[..., None] - 13).clip(0, 255).astype(np.uint8)


def ramp(values: np.ndarray, colour: str) -> np.ndarray:
    """Black where a map is least, through the colour, to white where it is most; its extremes are cut off."""
    low, high = np.percentile(values, (1, 99))
    level = ((values - low) / max(high - low, 1e-12)).clip(0, 1)[..., None]
    tint = np.array(rgb(colour))
    return np.where(level < 0.6, level / 0.6 * tint, tint + (level - 0.6) / 0.4 * (255 - tint)).astype(np.uint8)


def limits(values: np.ndarray) -> str:
    """What black and white stand for."""
    return span(*np.percentile(values, (1, 99)))


def figure(pixels: np.ndarray, name: str, told: str, colour: str = "var(--ink)", title: str = "") -> str:
    """A picture with its name and numbers."""
    return (
        f"<figure title='{escape(title, quote=True)}'><img src='{data_uri(pixels)}' alt='{escape(name, quote=True)}'>"
        f"<figcaption><b style='color:{colour}'>{escape(name)}</b><span>{escape(told)}</span></figcaption></figure>"
    )


def side_by_side(figures: Iterable[str]) -> str:
    """Pictures side by side, in rows of equal length where that can be; on a phone two by two."""
    figures = list(figures)
    columns = next((n for n in (4, 3, 5) if len(figures) % n == 0), 4)
    return f"<div class='tost-maps' style='--columns:{columns}'>{''.join(figures)}</div>"


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [height, width, 3] as a JPEG in the page itself."""
    image: Any = require("PIL.Image", extra="app").fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
