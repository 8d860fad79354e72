"""transformers' Trainer, taught what this package promises: atomic checkpoints, randomness that survives a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from transformers import Trainer

from tost.training.checkpoints import STAGING, publish, remove_unfinished, writing
from tost.training.groups import parameter_groups
from tost.training.task import Task


class RunTrainer(Trainer):
    """Trains a task's module. What is random in a micro-batch depends on the seed and the micro-batch's number alone,
    so neither a restart nor the number of processes changes it."""

    def __init__(self, task: Task, module: nn.Module, **kwargs: Any) -> None:
        self.recipe, self.task = task.recipe, task
        self._last_step, self._micro_batch = -1, 0
        super().__init__(
            model=module,
            train_dataset=task.train,
            eval_dataset=task.validation,
            data_collator=task.collate,
            compute_metrics=task.metrics,
            preprocess_logits_for_metrics=task.reduce,
            **kwargs,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over parameter_groups."""
        if self.optimizer is None:
            optim = self.recipe.optim
            groups = parameter_groups(self.task.optimised, optim.lr, optim.weight_decay, self.task.layer_decay)
            self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> RandomSampler:
        """A random order whose last, smaller batch is left out (other items each epoch)."""
        items: Any = self.train_dataset
        batch = self.recipe.run.batch_size
        return RandomSampler(items, num_samples=len(items) // batch * batch)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The task's figures for each row of a batch, or the Trainer's own prediction."""
        with torch.no_grad(), self.compute_loss_context_manager():
            own = self.task.predict(model, self._prepare_inputs(inputs))
        return super().prediction_step(model, inputs, *args, **kwargs) if own is None else own

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """An epoch, unless the run went on from the checkpoint of its last step (transformers would take another)."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch: seed its randomness, then forward, backward, and a check that the loss is a number."""
        step = self.state.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._last_step else 0
        self._last_step = step
        place = (step * self.recipe.run.accumulate + self._micro_batch) * self.args.world_size + self.args.process_index
        torch.manual_seed(self.recipe.run.seed * 1_000_003 + place)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ValueError(diverged(step + 1, self.task, f"the loss is {float(loss)}"))
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' checkpoint, in a staging folder first: under its name it is whole and on the disk."""
        if not all(bool(torch.isfinite(p).all()) for p in self.task.optimised.parameters()):
            raise ValueError(diverged(self.state.global_step, self.task, "weights are not finite"))
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


def diverged(step: int, task: Task, what: str) -> str:
    """The one line for a run that left the numbers."""
    lr, precision = task.recipe.optim.lr, task.recipe.run.precision
    return (
        f"training diverged at step {step}: {what}; start another run (--run.name) with a lower --optim.lr (now "
        f"{lr:g}), a longer --{task.warmup} or in float32 (--run.precision {precision})"
    )
