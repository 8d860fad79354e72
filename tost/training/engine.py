"""transformers' Trainer, taught what this package promises: atomic checkpoints, randomness that survives a crash.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import RandomSampler
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction

from tost.data import to_model_input
from tost.training.augment import Augment
from tost.training.checkpoints import STAGING, publish, remove_unfinished, writing
from tost.training.groups import parameter_groups
from tost.training.recipe import Recipe


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
            logits, smoothing = self.model(images), self.recipe.augment.label_smoothing
        else:
            images, targets, smoothing = to_model_input(pixels, data.mean, data.std, data.image_size), labels, 0.0
            logits = self.best(images)
        loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        return {"loss": loss, "logits": logits}

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


class RunTrainer(Trainer):
    """Trains a Classifier. What is random in a micro-batch depends on the seed and the micro-batch's number alone,
    so neither a restart nor the number of processes changes it."""

    def __init__(self, classifier: Classifier, recipe: Recipe, **kwargs: Any) -> None:
        self.recipe, self.classifier = recipe, classifier
        self._last_step, self._micro_batch = -1, 0
        super().__init__(
            model=classifier,
            compute_metrics=accuracy,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
            **kwargs,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over parameter_groups; the average takes no part."""
        if self.optimizer is None:
            optim = self.recipe.optim
            groups = parameter_groups(self.classifier.model, optim.lr, optim.weight_decay, optim.layer_decay)
            self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> RandomSampler:
        """A random order whose last, smaller batch is left out (another image each epoch)."""
        images: Any = self.train_dataset
        batch = self.recipe.run.batch_size
        return RandomSampler(images, num_samples=len(images) // batch * batch)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch: seed its randomness, then forward, backward, and a check that the loss is a number."""
        step = self.state.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._last_step else 0
        self._last_step = step
        place = (step * self.recipe.run.accumulate + self._micro_batch) * self.args.world_size + self.args.process_index
        torch.manual_seed(self.recipe.run.seed * 1_000_003 + place)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ValueError(diverged(step + 1, self.recipe, f"the loss is {float(loss)}"))
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' checkpoint, in a staging folder first: under its name it is whole and on the disk."""
        if not all(bool(torch.isfinite(p).all()) for p in self.classifier.model.parameters()):
            raise ValueError(diverged(self.state.global_step, self.recipe, "weights are not finite"))
        folder = Path(str(self.args.output_dir))
        self.args.output_dir = str(folder / STAGING)
        try:
            with writing(f"the checkpoint of step {self.state.global_step} in {folder}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    for pickle in folder.glob(f"{STAGING}/*/training_args.bin"):  # never read, so never written
                        pickle.unlink()
                    publish(folder)
        except BaseException:
            remove_unfinished(folder)
            raise
        finally:
            self.args.output_dir = str(folder)
        self.accelerator.wait_for_everyone()


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of predictions that are right."""
    return {"accuracy": float(np.mean(prediction.predictions == prediction.label_ids))}


def diverged(step: int, recipe: Recipe, what: str) -> str:
    """The one line for a run that left the numbers."""
    return (
        f"training diverged at step {step}: {what}; start another run (--run.name) with a lower --optim.lr (now "
        f"{recipe.optim.lr:g}), a longer --optim.warmup_epochs or in float32 (--run.precision {recipe.run.precision})"
    )
