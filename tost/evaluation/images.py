"""Recompute a vision run's accuracy from its saved weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tost.data import TensorImages
from tost.evaluation.intervals import wilson_interval
from tost.rates import MCR2Loss
from tost.training import load_run
from tost.training.outputs import outputs
from tost.training.recipe import Recipe
from tost.training.runs import read_summary

Answers = Iterator[tuple[Tensor, Tensor]]  # outputs [B, K], labels [B]


def evaluate_images(
    run: str | Path,
    *,
    data: dict[str, Any] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Accuracy of a finished run's weights on the images its recipe holds out.

    data: settings of the recipe's data to replace, such as {"path": ...} where the images have moved.
    Features learned by mcr2 are read by the nearest of the run's subspaces; their "loss" is -(R - R_c) of all images.
    Returns {"run", "split", "images", "right", "accuracy", "interval" (95%), "classes", "loss"}, of mcr2 "reduction".
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
    answers = outputs(model.to(device), images.test, recipe.data, batch_size, workers, device)
    judge = _judge_features if recipe.objective.loss == "mcr2" else _judge_logits
    right, found = judge(answers, Path(run), recipe)
    total = len(images.test)
    return {
        "run": str(run),
        "split": images.held_out,
        "images": total,
        "right": right,
        "accuracy": right / total,
        "interval": wilson_interval(right, total),
        "classes": len(images.classes),
        **found,
    }


def _judge_logits(answers: Answers, run: Path, recipe: Recipe) -> tuple[int, dict[str, float]]:
    """How many are right, and the mean cross-entropy."""
    right, loss, total = 0, 0.0, 0
    for logits, labels in answers:
        right += int((logits.argmax(-1) == labels).sum())
        loss += float(nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
        total += len(labels)
    return right, {"loss": loss / total}


def _judge_features(answers: Answers, run: Path, recipe: Recipe) -> tuple[int, dict[str, float]]:
    """How many are nearest to their class's subspace, and the coding rate reduction of all."""
    from tost.training.reduction import load_subspaces

    subspaces = load_subspaces(run)
    features, labels = (torch.cat(part).cpu() for part in zip(*answers))
    loss = float(MCR2Loss(len(subspaces.basis), recipe.objective.eps)(features, labels))
    return int((subspaces(features) == labels).sum()), {"loss": loss, "reduction": -loss}


def _with_data(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    if not changes:
        return recipe
    from tost.training.settings import load_recipe

    return replace(recipe, data=load_recipe(recipe, {"data": changes}).data)
