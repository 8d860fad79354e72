"""The task of vision: images, augmentation, accuracy, an average of the weights.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers.trainer_utils import EvalPrediction

from tost.data import to_model_input
from tost.data.images import TensorImages
from tost.training.augment import Augment
from tost.training.build import build_images, build_model
from tost.training.callbacks import NextEpoch, UpdateAverage
from tost.training.recipe import Recipe
from tost.training.task import Plan, Task


class Classifier(nn.Module):
    """A vision model with its augmentation, its loss and, if the recipe wants it, the average of its weights.

    pixels uint8 [B, C, H, W], labels [B] -> {"loss": scalar, "logits": [B, K]}. In eval mode the average answers.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.augment = Augment(recipe.augment, recipe.data, num_classes)
        self.average: AveragedModel | None = None
        if recipe.optim.ema:
            self.average = AveragedModel(model, multi_avg_fn=_ema(recipe.optim.ema), use_buffers=True)
            self.average.requires_grad_(False)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        data = self.recipe.data
        if self.training:
            with torch.autocast(pixels.device.type, enabled=False), torch.no_grad():
                images, targets = self.augment(pixels, labels)
            logits = self.model(images)
        else:
            images, targets = to_model_input(pixels, data.mean, data.std, data.image_size), labels
            logits = self.best(images)
        return {"loss": self.loss(logits, targets), "logits": logits}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, smoothed in training; targets: labels [B] or mixtures [B, K]."""
        smoothing = self.recipe.augment.label_smoothing if self.training else 0.0
        return nn.functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    @property
    def best(self) -> nn.Module:
        """The averaged model if there is one, else the model itself."""
        return self.average.module if self.average is not None else self.model

    def update_average(self) -> None:
        """One step of the average towards the weights."""
        if self.average is not None:
            self.average.update_parameters(self.model)


def _ema(decay: float) -> Any:
    """average <- d * average + (1 - d) * weights with d = min(decay, (1 + steps) / (10 + steps))."""

    @torch.no_grad()
    def update(average: list[Tensor], weights: list[Tensor], steps: Any) -> None:
        count = int(steps)
        share = 1 - min(decay, (1 + count) / (10 + count))
        if torch.is_floating_point(average[0]):
            torch._foreach_lerp_(average, weights, share)
        else:  # BatchNorm's count of batches
            torch._foreach_copy_(average, weights)

    return update


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of predictions that are right."""
    return {"accuracy": float(np.mean(prediction.predictions == prediction.label_ids))}


class VisionTask(Task):
    """Images and their classes."""

    warmup = "optim.warmup_epochs"
    items = "training images"
    module = Classifier

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.images = images = build_images(recipe)
        self.train, self.validation, self.test = images.train, images.validation, images.test

    def plan(self) -> Plan:
        run, optim, epoch = self.recipe.run, self.recipe.optim, self.epoch_steps()
        return Plan(
            steps=run.steps or max(1, round(run.epochs * epoch)),
            every=max(1, round(run.checkpoint_epochs * epoch)),
            warmup=round(optim.warmup_epochs * epoch),
            workers=0 if isinstance(self.train, TensorImages) else self.recipe.data.workers,
        )

    def build(self) -> nn.Module:
        classifier = self.module(build_model(self.recipe, self.images), self.recipe, len(self.images.classes))
        self.classifier = classifier
        self.callbacks = [UpdateAverage(classifier.update_average), NextEpoch(self.train)]
        return classifier

    @property
    def optimised(self) -> nn.Module:
        return self.classifier.model

    @property
    def layer_decay(self) -> float:
        return self.recipe.optim.layer_decay

    def reduce(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.argmax(-1)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return accuracy(prediction)

    def score(self, metrics: dict[str, float], prefix: str) -> dict[str, Any]:
        split, images = ("validation", self.validation) if prefix == "eval" else (self.images.held_out, self.test)
        accuracy, loss = (metrics[f"{prefix}_{name}"] for name in ("accuracy", "loss"))
        assert images is not None
        return {"split": split, "images": len(images), "accuracy": accuracy, "loss": loss}

    def facts(self) -> dict[str, Any]:
        return {"model": self.recipe.model.name, "classes": self.images.classes}

    def save(self, trainer: Any, folder: Path) -> None:
        if trainer.args.process_index == 0:
            self.classifier.best.eval().save_pretrained(folder)  # type: ignore[operator]
