"""A run's own evaluation, of any model of its kind: accuracy on held-out images, or surprise at held-out text."""

# B batch, N tokens of a row

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from tost.training.recipe import Recipe
from tost.training.recipe_language import LanguageRecipe

BATCH = 64


class Quality(NamedTuple):
    """accuracy (None of a language model), nats (cross-entropy by image or token), and of what number.

    `lost` and `limit` of a comparison are points of accuracy where there is one, else nats.
    """

    accuracy: float | None
    nats: float
    number: int

    def lost(self, now: Quality) -> float:
        """How much worse `now` is."""
        if self.accuracy is None or now.accuracy is None:
            return now.nats - self.nats
        return 100 * (self.accuracy - now.accuracy)

    @property
    def limit(self) -> float:
        """What may be lost: 0.3 points, 0.01 nats."""
        return 0.01 if self.accuracy is None else 0.3

    @property
    def unit(self) -> str:
        return "nats" if self.accuracy is None else "points"

    def __str__(self) -> str:
        return f"{self.nats:.4f} nats" if self.accuracy is None else f"{self.accuracy:.2%}"


def judge_of(run: Path, recipe: Any, data: dict[str, Any] | None = None) -> Callable[[nn.Module, str], Quality]:
    """A function of (model, what the progress bar calls it) that gives its Quality; the data are read once.

    data: settings of a vision recipe's data to replace, such as {"path": ...}.
    Raises ValueError for a run of another kind, and for data that are not there.
    """
    if isinstance(recipe, LanguageRecipe):
        return _text_judge(run, recipe)
    if isinstance(recipe, Recipe):
        return _image_judge(run, recipe, data or {})
    raise ValueError(
        f"{run} is neither of images nor of text ({type(recipe).__name__}); `tost quantize` takes those two"
    )


def _image_judge(run: Path, recipe: Recipe, changes: dict[str, Any]) -> Callable[[nn.Module, str], Quality]:
    from tost.training.build import build_images
    from tost.training.outputs import outputs
    from tost.training.reduction import load_subspaces
    from tost.training.settings import load_recipe

    if changes:
        recipe = load_recipe(recipe, {"data": changes})
    images = build_images(recipe)
    subspaces = load_subspaces(run) if recipe.objective.loss == "mcr2" else None

    def judge(model: nn.Module, name: str) -> Quality:
        right, nats, count = 0, 0.0, 0
        answers = outputs(InOwnType(model), images.test, recipe.data, BATCH, 0, torch.device("cpu"))
        with tqdm(total=len(images.test), desc=name, unit="image", leave=False) as bar:
            for logits, labels in answers:
                found = logits.argmax(-1) if subspaces is None else subspaces(logits)
                right += int((found == labels).sum())
                if subspaces is None:
                    nats += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                count += len(labels)
                bar.update(len(labels))
        return Quality(right / count, nats / count, count)

    return judge


def _text_judge(run: Path, recipe: LanguageRecipe) -> Callable[[nn.Module, str], Quality]:
    from tost.data.packing import collate
    from tost.data.text import load_text
    from tost.data.tokens import load_tokenizer
    from tost.training.language import row_nats, text_options

    rows = load_text(text_options(recipe), load_tokenizer(str(run))).test

    @torch.inference_mode()
    def judge(model: nn.Module, name: str) -> Quality:
        nats, count = 0.0, 0
        batches = DataLoader(rows, max(1, 2**13 // recipe.data.context), collate_fn=collate)
        for batch in tqdm(batches, desc=name, unit="batch", leave=False):
            labels = batch.pop("labels")
            lost, counted = row_nats(model(**batch, use_cache=False).logits, labels)
            nats, count = nats + float(lost.sum()), count + int(counted.sum())
        return Quality(None, nats / count, count)

    return judge


class InOwnType(nn.Module):
    """A vision model fed in its own number type, its answers in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(next(p for p in self.model.parameters() if p.is_floating_point()).dtype)).float()
