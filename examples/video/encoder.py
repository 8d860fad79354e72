"""A vision model as an encoder of a stream: pixels of a frame in, features of its patches out."""

# N = rows x columns patches of a frame, H heads, C features

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.video.rivals import CachedSoftmax, Recomputed
from examples.video.statistics import FrameStatistics, TokenStatistics
from tost.data.images import normalise
from tost.models import ToSTVision, create_model, list_models
from tost.models.vision import IMAGENET_MEAN, IMAGENET_STD
from tost.shipped import SHIPPED, shipped


class FrameEncoder(nn.Module):
    """The blocks of a ToSTVision over one stream of frames: step(picture [H, W, 3] uint8) -> features [N, C].

    What is remembered lies in the blocks' mixers (`mixers`); reset() forgets it.
    """

    def __init__(self, model: ToSTVision, make_mixer: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        self.model = model
        for block in model.blocks:
            block.mixer = make_mixer(block.mixer)
        self.mixers: list[Any] = [block.mixer for block in model.blocks]

    def reset(self) -> None:
        """Forget all frames."""
        for mixer in self.mixers:
            mixer.reset()

    def forward(self, pixels: Tensor) -> Tensor:
        tokens, (height, width) = self.model.patch_embed(pixels)
        tokens = tokens + self.model.pos_embed(height, width)
        for block in self.model.blocks:
            tokens = block(tokens)
        return self.model.norm(tokens)[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is remembered."""
        return sum(m.nbytes if hasattr(m, "nbytes") else 0 if m.state is None else m.state.nbytes for m in self.mixers)


@torch.inference_mode()
def step(encoder: nn.Module, picture: np.ndarray) -> Tensor:
    """Features [N, C] of the next frame, a picture [H, W, 3] of uint8: what is timed."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    return encoder(normalise(pixels, IMAGENET_MEAN, IMAGENET_STD))


def load_model(name: str, mixer: str = "tssa", seed: int = 0) -> ToSTVision:
    """The shipped model "flowers", or one of the registry with random weights; with another mixer always random.

    Raises ValueError for other names.
    """
    vision = [known for known in SHIPPED if '"patch_size"' in (shipped(known) / "config.json").read_text()]
    torch.manual_seed(seed)
    if name in vision and mixer == "tssa":
        return ToSTVision.from_pretrained(shipped(name))
    if name in vision:
        name = ToSTVision.from_pretrained(shipped(name)).config.name
    if name not in list_models():
        raise ValueError(f"no model {name!r}: choose {', '.join(vision)} (trained), or of {', '.join(list_models())}")
    model = create_model(name, mixer=mixer, num_classes=0).eval()
    if not isinstance(model, ToSTVision):
        raise ValueError(f"{name} does not take pictures; choose a vision model, such as flowers")
    return model


def streaming(name: str, statistics: str, half_life: float) -> FrameEncoder:
    """ToST with statistics that are carried from frame to frame.

    statistics: "frame" (full within a frame) or "token" (causal, row by row).  half_life: in frames.
    """
    model = load_model(name)
    height, width = model.config.image_size
    trained_on = (height // model.config.patch_size) * (width // model.config.patch_size)
    kind = TokenStatistics if statistics == "token" else FrameStatistics
    return FrameEncoder(model, lambda layer: kind(layer, half_life, trained_on)).eval()


@dataclass(frozen=True)
class Rival:
    """Something of the same size to measure beside the stream, which remembers so many frames (None: all)."""

    name: str
    kind: str
    frames: int | None

    def build(self, model: str, limit: float) -> nn.Module:
        """Of the size of `model`, with random weights.  limit: bytes of all caches."""
        if self.kind == "cache":
            twin = load_model(model, "softmax")
            return FrameEncoder(twin, lambda mix: CachedSoftmax(mix, self.frames, limit / len(twin.blocks))).eval()
        assert self.frames is not None
        return Recomputed(load_model(model, "softmax" if self.kind == "recompute" else "tssa"), self.frames).eval()


def rival_named(name: str) -> Rival:
    """The rival of a name such as cache-8. Raises ValueError for another form."""
    kind, _, count = name.rpartition("-")
    if kind == "cache" and count == "all":
        return Rival(name, kind, None)
    if kind in ("cache", "recompute", "tost-recompute") and count.isdigit() and int(count):
        return Rival(name, kind, int(count))
    raise ValueError(
        f"--against: expected cache-K, cache-all, recompute-K or tost-recompute-K, K frames (1 or more), got {name!r}"
    )


def grid_for(aspect: float, tokens: int) -> tuple[int, int]:
    """(rows, columns) of about so many patches in a picture of width / height = aspect: 36 x 64 of 2304 at 16:9."""
    columns = max(1, round((tokens * aspect) ** 0.5))
    return max(1, round(tokens / columns)), columns
