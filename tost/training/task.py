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

    warmup: the setting of that name, for the advice after divergence.  items: what a batch has many of.
    """

    recipe: Any
    train: Any
    validation: Any | None
    test: Any
    warmup: str
    items: str = "training items"
    collate: Any = None
    reduce: Any = None
    callbacks: list[Any]

    def plan(self) -> Plan:
        """The length of the run, here for recipes that count their warm-up and checkpoints in steps."""
        run, epoch = self.recipe.run, self.epoch_steps()
        steps = run.steps or max(1, round(run.epochs * epoch))
        every = min(max(1, run.checkpoint_steps), steps)
        return Plan(steps, every, warmup=self.recipe.optim.warmup_steps, workers=self.recipe.data.workers)

    def epoch_steps(self, advice: str = "lower it") -> int:
        """Steps of one pass over the training data; ValueError with `advice` if they don't fill one batch."""
        size = self.recipe.run.batch_size
        steps = len(self.train) // size
        if steps == 0:
            raise ValueError(f"run.batch_size {size} is more than the {len(self.train)} {self.items}; {advice}")
        return steps

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
