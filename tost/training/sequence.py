"""The task of labelled sequences: one label for each, for two together, or for every token.

B items of a batch, S sequences (2 B of pairs), N tokens, K classes.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalPrediction

from tost.data.sequences import IGNORE, SequenceSets, collate
from tost.data.sources import load_sequences
from tost.models import SequenceConfig, ToSTSequence
from tost.models.pretrained import load_features, load_strictly
from tost.training.recipe_sequence import SequenceRecipe
from tost.training.task import Task


class Learner(nn.Module):
    """A ToSTSequence and its cross-entropy: a batch of tost.data.sequences.collate -> {"loss": scalar, "logits"}."""

    def __init__(self, model: ToSTSequence) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, labels: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = self.model(x, mask=mask, cu_seqlens=cu_seqlens)
        if labels.ndim == 2 and cu_seqlens is not None:
            logits = unpacked(logits, labels, cu_seqlens)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE)
        return {"loss": loss, "logits": logits}


def unpacked(logits: Tensor, labels: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Logits of packed tokens [1, total, K] where the table of labels [S, longest] has theirs: [S, longest, K]."""
    inside = torch.arange(labels.shape[1], device=labels.device) < cu_seqlens.diff()[:, None]
    table = logits.new_zeros(*labels.shape, logits.shape[-1])
    table[inside] = logits[0]
    return table


def row_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """How many labels of each item are right, how many count, and their nats: [B, 3] float64.

    logits: [B, K] and labels: [B], or [B, N, K] and [B, N] with IGNORE where a token is not judged.
    """
    if labels.ndim == 1:
        logits, labels = logits[:, None], labels[:, None]
    counted = labels != IGNORE
    right = (logits.argmax(-1) == labels) & counted
    nats = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
    ).double()
    return torch.stack([right.sum(1).double(), counted.sum(1).double(), nats.sum(1)], 1)


class SequenceTask(Task):
    """Sequences and their labels."""

    warmup = "optim.warmup_steps"
    items = "training sequences"

    def __init__(self, recipe: SequenceRecipe, folder: Path) -> None:
        self.recipe, self.callbacks = recipe, []
        self.sets: SequenceSets = load_sequences(recipe.data)
        self.train, self.validation, self.test = self.sets.train, self.sets.validation, self.sets.test
        self.model = build_sequence_model(recipe, self.sets)
        self.collate = partial(collate, pack=packs(self.model))

    def build(self) -> nn.Module:
        return Learner(self.model)

    @property
    def optimised(self) -> nn.Module:
        return self.model

    def predict(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[None, Tensor, Tensor]:
        scores = row_scores(model(**inputs)["logits"], inputs["labels"])
        return None, scores, scores[:, 1]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        right, counted, nats = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
        return {"accuracy": right / max(counted, 1), "loss": nats / max(counted, 1), "counted": counted}

    def score(self, metrics: dict[str, float], prefix: str) -> dict[str, Any]:
        split, items = ("validation", self.validation) if prefix == "eval" else (self.sets.held_out, self.test)
        assert items is not None
        accuracy, loss = (metrics[f"{prefix}_{name}"] for name in ("accuracy", "loss"))
        return {"split": split, "sequences": len(items), "accuracy": accuracy, "loss": loss}

    def facts(self) -> dict[str, Any]:
        return {"model": f"{self.recipe.model.mixer}", "classes": self.sets.classes, "data": self.sets.facts}

    def save(self, trainer: Any, folder: Path) -> None:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole tensors also where they are sharded
        if trainer.args.process_index == 0:
            own = {name.removeprefix("model."): tensor for name, tensor in state.items()}
            whole = ToSTSequence(self.model.config)
            load_strictly(whole, own, "the run")
            whole.save_pretrained(folder)


def packs(model: ToSTSequence) -> bool:
    """Whether its mixer takes sequences one after another; else they are padded."""
    return model.config.causal or bool(getattr(model.blocks[0].mixer, "packs", False))


def build_sequence_model(recipe: SequenceRecipe, sets: SequenceSets) -> ToSTSequence:
    """The model for these sequences: fresh weights by the seed, or model.weights with a new head if classes differ."""
    torch.manual_seed(recipe.run.seed)
    known = {field.name for field in fields(SequenceConfig)}
    sizes = {name: value for name, value in vars(recipe.model).items() if name in known}
    model = ToSTSequence(
        SequenceConfig(
            **sizes,
            vocab_size=sets.vocab_size,
            in_features=sets.in_features,
            num_classes=len(sets.classes),
            max_length=sets.max_length,
            pair=sets.pair,
            per_token=sets.per_token,
        )
    )
    if recipe.model.weights:
        tensors = ToSTSequence.from_pretrained(recipe.model.weights).state_dict()
        load_features(model, tensors, recipe.model.weights)
    if recipe.run.gradient_checkpointing:
        model.set_grad_checkpointing(True)
    return model
