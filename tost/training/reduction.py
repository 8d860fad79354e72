"""The task of features learned by maximal coding rate reduction alone, and read by the nearest subspace.

B batch, C features, K classes, P directions of a class's subspace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.trainer_utils import EvalPrediction

from tost.data.images import TensorImages
from tost.files import atomic_write
from tost.rates import MCR2Loss, NearestSubspace
from tost.training.outputs import outputs
from tost.training.recipe import Recipe
from tost.training.runs import SUBSPACES
from tost.training.vision import Classifier, VisionTask, accuracy


class FeatureLearner(Classifier):
    """A vision model trained by -(R - R_c) of a batch: what its head answers are features [B, C]."""

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int) -> None:
        super().__init__(model, recipe, num_classes)
        self.criterion = MCR2Loss(num_classes, recipe.objective.eps)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(logits, targets)


class ReductionTask(VisionTask):
    """Images, their classes, and subspaces of the features of the training images as they are, not augmented."""

    module = FeatureLearner

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        super().__init__(recipe, folder)
        if recipe.augment.label_smoothing:
            raise ValueError("objective.loss mcr2 has no label smoothing; set --augment.label_smoothing 0")
        features, width, eps = recipe.objective.features, recipe.objective.width, recipe.objective.eps
        if not eps > 0 or features < 2:
            raise ValueError(f"objective wants eps above 0 and features of at least 2, got {eps} and {features}")
        fewest = int(torch.as_tensor(self.train.labels).bincount(minlength=len(self.images.classes)).min())
        if not 0 < width <= min(features - 1, fewest):
            raise ValueError(
                f"objective.width is 1 to {min(features - 1, fewest)}, below objective.features {features} and no more "
                f"than the {fewest} training images of the rarest class, got {width}"
            )

    def reduce(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.float()

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        features = torch.as_tensor(prediction.predictions)
        labels = torch.as_tensor(prediction.label_ids)
        guesses = self.subspaces()(features)
        right = accuracy(EvalPrediction(guesses.numpy(), labels.numpy()))
        return {**right, "reduction": -float(self.classifier.criterion(features, labels))}  # type: ignore[operator]

    def score(self, metrics: dict[str, float], prefix: str) -> dict[str, Any]:
        score = super().score(metrics, prefix)
        reduction = metrics[f"{prefix}_reduction"]
        return {**score, "loss": -reduction, "reduction": reduction}

    def subspaces(self) -> NearestSubspace:
        """The principal directions of the training images' features, class by class."""
        best, objective = self.classifier.best, self.recipe.objective
        device = next(best.parameters()).device
        workers = 0 if isinstance(self.train, TensorImages) else self.recipe.data.workers
        pairs = outputs(best.eval(), self.train, self.recipe.data, self.recipe.run.batch_size, workers, device)
        features, labels = (torch.cat(part).cpu() for part in zip(*pairs))
        return NearestSubspace.fit(features, labels, len(self.images.classes), objective.width)

    def save(self, trainer: Any, folder: Path) -> None:
        super().save(trainer, folder)
        if trainer.args.process_index == 0:
            with atomic_write(folder / SUBSPACES) as file:
                file.write(safetensors.torch.save({"basis": self.subspaces().basis.contiguous()}))


def load_subspaces(folder: Path) -> NearestSubspace:
    """The subspaces of a finished run; ValueError if the file is missing or damaged."""
    try:
        return NearestSubspace(safetensors.torch.load_file(folder / SUBSPACES)["basis"])
    except (OSError, KeyError, SafetensorError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{folder}: {SUBSPACES} is missing or damaged ({told}); train again") from None
