"""What the engine asks of a task: its data, its model, its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import EvalPrediction


@dataclass
class Plan:
    """How many steps a run takes, how many lie between checkpoints, how many warm up; processes that load data."""

    steps: int
    every: int
    warmup: int
    workers: int = 0


class Task:
    """A task reads its data when it is made, and its model in `build`; a subclass fills in what raises here.

    warmup: the setting of that name, for the advice after divergence.
    """

    recipe: Any
    train: Any
    validation: Any | None
    test: Any
    warmup: str
    collate: Any = None
    reduce: Any = None
    callbacks: list[Any]

    def plan(self) -> Plan:
        """The length of the run; ValueError if the data don't fill one batch."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The module that is trained: the Trainer calls it with a batch."""
        raise NotImplementedError

    @property
    def optimised(self) -> nn.Module:
        """The module whose parameters are optimised."""
        raise NotImplementedError

    @property
    def layer_decay(self) -> float:
        """The learning rate of a block as a share of the next block's."""
        return 1.0

    def prepare(self, folder: Path) -> None:
        """Write into the fresh folder of a run what it should hold from the start (first process only)."""

    def predict(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any, Any] | None:
        """(loss, figures of each row, labels) of a batch, or None to have the Trainer's own."""
        return None

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of a whole split."""
        raise NotImplementedError

    def score(self, metrics: dict[str, float], prefix: str) -> dict[str, Any]:
        """The entry of summary.json for metrics "test_..." or "eval_..." (validation)."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What summary.json tells of the model and the data."""
        raise NotImplementedError

    def save(self, trainer: Any, folder: Path) -> None:
        """Write the trained model; every process calls it."""
        raise NotImplementedError
