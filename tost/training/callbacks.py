"""What happens between steps: the metrics file, the average of the weights, the progress bar, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from tost.files import atomic_write
from tost.training.checkpoints import writing

VALIDATION = ("eval_loss", "eval_accuracy", "eval_reduction", "eval_perplexity", "eval_bits_per_byte")
LOGGED = ("step", "epoch", "loss", "grad_norm", "learning_rate", *VALIDATION)
# What the progress bar shows of them.
FIGURES = {"loss": "loss", "eval_accuracy": "validation accuracy", "eval_bits_per_byte": "validation bits/byte"}


class MetricsFile(TrainerCallback):
    """One JSON line per logged step; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            with atomic_write(self.path, "w") as file:
                file.writelines(_line(entry) for entry in state.log_history if _line(entry))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            with writing(str(self.path)):
                append(self.path, _line(state.log_history[-1]).encode())


def append(path: Path, data: bytes) -> None:
    """Add `data` to a file, all of it or, raising OSError, nothing."""
    with open(path, "ab", buffering=0) as file:
        whole = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(whole)
            raise


def _line(entry: dict[str, Any]) -> str:
    kept = {key.replace("eval_", "validation_"): entry[key] for key in LOGGED if key in entry}
    return json.dumps(kept) + "\n" if len(kept) > 2 else ""


class UpdateAverage(TrainerCallback):
    """After every step, let the average of the weights follow them."""

    def __init__(self, update: Any) -> None:
        self.update = update

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.update()


class NextEpoch(TrainerCallback):
    """Tell a set that decodes random crops which epoch begins."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if hasattr(self.images, "set_epoch"):
            self.images.set_epoch(int(state.epoch or 0))


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C ends a run after its step and a checkpoint of it; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False
        self.previous: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and args.world_size == 1:
            self.previous = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked:
            control.should_log = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt(f"interrupted at step {state.global_step} of {state.max_steps}, saved")

    def restore(self) -> None:
        """Give SIGINT back to whoever had it."""
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None


class Progress(ProgressCallback):
    """transformers' progress bar, with the latest figures beside it instead of a line for each."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.figures: dict[str, str] = {}

    def close(self) -> None:
        """End the bar's line, also after an error."""
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = None

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """No second bar for a look at the validation images."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            self.figures |= {FIGURES[k]: f"{v:.4f}" for k, v in (logs or {}).items() if k in FIGURES}
            self.training_bar.set_postfix(self.figures, refresh=False)
