"""A task's arguments for transformers' Trainer."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tost.training.runs import CHECKPOINTS
from tost.training.task import Task


def build_arguments(task: Task, folder: Path) -> TrainingArguments:
    """transformers' arguments; making them joins the processes of `accelerate launch`."""
    recipe = task.recipe
    run, optim = recipe.run, recipe.optim
    micro_batch, plan = _micro_batch(run), task.plan()
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=run.accumulate,
        max_steps=plan.steps,
        learning_rate=optim.lr,
        warmup_steps=min(plan.warmup, plan.steps),
        max_grad_norm=optim.clip,
        bf16=run.precision == "bfloat16",
        fp16=run.precision == "float16",
        seed=run.seed,
        data_seed=run.seed,
        save_strategy="steps",
        save_steps=plan.every,
        eval_strategy="no" if task.validation is None else "steps",
        eval_steps=plan.every,
        logging_steps=next(n for n in range(10, 0, -1) if plan.every % n == 0),  # a checkpoint cuts no average short
        logging_nan_inf_filter=False,
        report_to=["tensorboard"] if tensorboard else "none",
        log_level="error",
        disable_tqdm=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true" or not torch.accelerator.is_available(),
        label_names=["labels"],
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=plan.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        **_schedule(optim),
    )
    if arguments.n_gpu > 1:  # several GPUs without a launcher: train on one, not by torch's old DataParallel
        arguments._n_gpu = 1
    return arguments


def _schedule(optim: Any) -> dict[str, Any]:
    """transformers' name for what follows the warm-up; cosine, where the recipe has no choice."""
    name = getattr(optim, "schedule", "cosine")
    if name == "cosine" and optim.final_lr:
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": optim.final_lr}}
    return {"lr_scheduler_type": "constant_with_warmup" if name == "constant" else name}


def _micro_batch(run: Any) -> int:
    """Items per forward pass: the batch divided among the launched processes and their micro-batches."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if run.batch_size < 1 or run.accumulate < 1 or run.batch_size % (processes * run.accumulate):
        raise ValueError(
            f"run.batch_size {run.batch_size} does not divide into {processes} processes x {run.accumulate} "
            f"micro-batches; choose a multiple of {processes * max(1, run.accumulate)}"
        )
    return run.batch_size // (processes * run.accumulate)
