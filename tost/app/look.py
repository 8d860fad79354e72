"""What a vision model does with one picture: computed once, drawn as often as somebody moves a slider."""

# N tokens = rows x columns patches, H heads, L layers

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tost.data import to_model_input
from tost.extras import require
from tost.rates import RateRecord, record_class_attention, record_memberships, record_rates

MAX_TOKENS = 4096
MAX_SIDE = 64  # patches along the short side


@dataclass
class Look:
    """Everything the Image tab shows of one picture.

    picture: uint8 [height, width, 3], as the model saw it.  grid: rows and columns of patches.
    probabilities: class -> share.  memberships: layer -> [N, H].  attention: class-attention layer -> [H, N].
    rates: None, and memberships empty, where the model's mixer has none.
    """

    picture: np.ndarray
    grid: tuple[int, int]
    probabilities: dict[str, float]
    memberships: dict[str, Tensor]
    attention: dict[str, Tensor]
    rates: RateRecord | None
    seconds: float

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


def look(model: Any, recipe: Any, classes: list[str], image: Any, side: int, square: bool) -> Look:
    """Run the model on a PIL image cut to `side` patches along its short side and record what its layers do.

    square: the middle square alone, as the recipe's evaluation crops it.
    """
    started = time.perf_counter()
    patch, channels = model.config.patch_size, model.config.in_chans
    box = centre(image.size, recipe.data.crop_ratio if recipe.data.source != "digits" else 1.0) if square else None
    size = image.size if box is None else (1, 1)
    rows, columns = grid_of(size[1], size[0], side)
    bicubic = require("PIL.Image", extra="app").Resampling.BICUBIC
    small = image.convert("RGB" if channels == 3 else "L").resize((columns * patch, rows * patch), bicubic, box=box)
    pixels = torch.from_numpy(np.array(small, dtype=np.uint8)).reshape(1, rows * patch, columns * patch, channels)
    device = next(model.parameters()).device
    x = to_model_input(pixels.movedim(-1, 1), recipe.data.mean, recipe.data.std).to(device)
    with torch.inference_mode():
        outputs = model(x)[0].float().cpu()
    shares = {}
    if recipe.objective.loss != "mcr2":  # features that were trained by rates alone are no logits
        shares = dict(zip(classes, outputs.softmax(-1).tolist()))
    memberships, rates = _layers(model, x)
    return Look(
        picture=np.array(small.convert("RGB")),
        grid=(rows, columns),
        probabilities=shares,
        memberships={name: pi[0] for name, pi in memberships.items()},
        attention={name: p[0] for name, p in record_class_attention(model, x).items()} if model.cls_blocks else {},
        rates=rates,
        seconds=time.perf_counter() - started,
    )


def centre(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The box of the middle square that covers `ratio` of the short side of (width, height)."""
    side = ratio * min(size)
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    return max(left, 0), max(top, 0), min(left + side, size[0]), min(top + side, size[1])


def grid_of(height: float, width: float, side: int) -> tuple[int, int]:
    """Rows and columns in the picture's shape, `side` along the short edge or fewer: at most MAX_TOKENS in all."""
    long = max(height, width) / min(height, width)
    short = max(1, int(min(side, MAX_SIDE, (MAX_TOKENS / long) ** 0.5)))
    other = min(round(short * long), MAX_TOKENS // short)
    return (short, other) if height <= width else (other, short)


def usual_side(model: Any, recipe: Any) -> int:
    """Patches along a side of the images that the model was trained on."""
    return min(MAX_SIDE, max(1, recipe.data.image_size // model.config.patch_size))


def _layers(model: Any, x: Tensor) -> tuple[dict[str, Tensor], RateRecord | None]:
    """Memberships and rates, or none for a model whose mixer has no memberships."""
    try:
        return record_memberships(model, x), record_rates(model, x)
    except ValueError:
        return {}, None
