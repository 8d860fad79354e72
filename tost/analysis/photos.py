"""Photographs of one's own: found in a folder, read in their proportions."""

# H, W pixels

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SHOWN = 224  # pixels: a photograph that a model sees smaller is shown so large


def read_photo(path: Path, size: int, patch: int) -> tuple[Tensor, Tensor]:
    """(what a model sees [1, 3, H, W], the same larger, to be shown [1, 3, kH, kW]), both in 0 to 1.

    H and W are multiples of the patch, H W is about size^2, the proportions are those of the file.
    """
    from tost.data.folders import open_image

    image = open_image(path)
    height, width = working_size((image.height, image.width), size, patch)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    larger = -(-SHOWN // min(height, width))
    small, large = (
        F.interpolate(pixels, (k * height, k * width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        for k in (1, larger)
    )
    return small, large


def working_size(shape: tuple[int, int], size: int, patch: int) -> tuple[int, int]:
    """Height and width nearest to `shape` scaled to an area of size^2 that the patch divides."""
    scale = size / (shape[0] * shape[1]) ** 0.5
    height, width = (max(1, round(side * scale / patch)) * patch for side in shape)
    return height, width


def image_files(folder: str | Path) -> list[Path]:
    """The images of a folder by name; ValueError if there is no such folder or no image in it."""
    from tost.data.folders import SUFFIXES

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"--images {folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"--images {folder}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
    return found
