"""How temperature and LayerScale move while a model trains: a CSV file beside the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tost.files import atomic_write
from tost.training.callbacks import append
from tost.training.checkpoints import writing

HEAD = "step,parameter,index,value\n"
POINTS = 100  # over a run


class ParametersFile(TrainerCallback):
    """Rows step,parameter,index,value: a temperature for each head, of LayerScale the mean absolute entry (no index).

    A hundred points over the run; a resumed run first drops the rows after its checkpoint. Parameters that are sharded
    over processes (FSDP) are left out.
    """

    def __init__(self, path: Path, model: nn.Module) -> None:
        self.path, self.model = path, model

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
            whole = [line for line in lines if line.count(",") == 3 and line.endswith("\n")]
            kept = [line for line in whole if int(line.split(",", 1)[0]) <= state.global_step]
        with atomic_write(self.path, "w") as file:
            file.write(HEAD + ("".join(kept) or self.rows(state.global_step)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, every = state.global_step, max(1, state.max_steps // POINTS)
        if state.is_world_process_zero and (step % every == 0 or step == state.max_steps):
            with writing(str(self.path)):
                append(self.path, self.rows(step).encode())

    @torch.no_grad()
    def rows(self, step: int) -> str:
        """The lines of one step."""
        lines = []
        for name, parameter in self.model.named_parameters():
            if hasattr(parameter, "full_tensor"):
                continue
            if name.endswith(".temperature"):
                lines += [f"{step},{name},{head},{value:.6g}\n" for head, value in enumerate(parameter.tolist())]
            elif name.endswith((".gamma1", ".gamma2")):
                lines.append(f"{step},{name},,{float(parameter.abs().mean()):.6g}\n")
        return "".join(lines)
