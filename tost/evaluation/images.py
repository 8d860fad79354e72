"""Recompute a vision run's accuracy from its saved weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tost.data import TensorImages, to_model_input
from tost.evaluation.intervals import wilson_interval
from tost.training import load_run
from tost.training.recipe import DataRecipe, Recipe
from tost.training.runs import read_summary


def evaluate_images(
    run: str | Path,
    *,
    data: dict[str, Any] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Accuracy of a finished run's weights on the images its recipe holds out.

    data: settings of the recipe's data to replace, such as {"path": ...} where the images have moved.
    Returns {"run", "split", "images", "right", "accuracy", "interval" (95%), "classes", "loss"}.
    Raises ValueError for a folder that is no finished run, damaged weights, or images of other classes.
    """
    from tost.training.build import build_images

    model, recipe = load_run(run)
    recipe = _with_data(recipe, data or {})
    images = build_images(recipe)
    trained = (read_summary(Path(run)) or {}).get("classes", images.classes)
    if images.classes != trained:
        raise ValueError(
            f"{run} was trained on the classes {trained[:5]}, ..., the images have {images.classes[:5]}, ..."
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    workers = 0 if isinstance(images.test, TensorImages) else recipe.data.workers
    right, loss = 0, 0.0
    for logits, labels in predictions(model.to(device), images.test, recipe.data, batch_size, workers, device):
        right += int((logits.argmax(-1) == labels).sum())
        loss += float(nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
    total = len(images.test)
    return {
        "run": str(run),
        "split": images.held_out,
        "images": total,
        "right": right,
        "accuracy": right / total,
        "interval": wilson_interval(right, total),
        "classes": len(images.classes),
        "loss": loss / total,
    }


@torch.inference_mode()
def predictions(
    model: nn.Module, images: Any, data: DataRecipe, batch_size: int, workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits [B, K], labels [B]) of every batch of `images`, in order."""
    for batch in DataLoader(images, batch_size=batch_size, num_workers=workers):
        pixels = to_model_input(batch["pixels"].to(device), data.mean, data.std, data.image_size)
        yield model(pixels), batch["labels"].to(device)


def _with_data(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    if not changes:
        return recipe
    from tost.training.settings import load_recipe

    return replace(recipe, data=load_recipe(recipe, {"data": changes}).data)
