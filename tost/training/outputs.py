"""What a vision model answers to each image of a set.

B batch, K classes (or features, of a model without a head).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tost.data import to_model_input
from tost.training.recipe import DataRecipe


@torch.inference_mode()
def outputs(
    model: nn.Module, images: Any, data: DataRecipe, batch_size: int, workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(outputs [B, K], labels [B]) of every batch of `images`, in order; torch's randomness stays as it is."""
    for batch in DataLoader(images, batch_size=batch_size, num_workers=workers, generator=torch.Generator()):
        pixels = to_model_input(batch["pixels"].to(device), data.mean, data.std, data.image_size)
        yield model(pixels), batch["labels"].to(device)
