"""Start a run, or go on with it."""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tost.extras import require
from tost.files import atomic_write
from tost.training.recipe_language import LanguageRecipe
from tost.training.recipe_multimodal import MultimodalRecipe
from tost.training.recipe_sequence import SequenceRecipe
from tost.training.runs import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    PARAMETERS,
    SUMMARY,
    check_same,
    prepare_folder,
    read_summary,
    run_folder,
)
from tost.training.settings import AnyRecipe, load_recipe

PACKAGES = {
    "vision": ("transformers", "accelerate", "kornia"),
    "language": ("transformers", "accelerate", "tokenizers"),
    "sequence": ("transformers", "accelerate"),
    "multimodal": ("transformers", "accelerate", "tokenizers"),
}
OUT_OF_MEMORY = (
    "out of memory on the device; split the batch with a larger --run.accumulate, or recompute activations with "
    "--run.gradient_checkpointing"
)


def train(recipe: str | Path | AnyRecipe, **overrides: Any) -> Path:
    """Train what `recipe` says and return the run's folder, runs/NAME.

    recipe: a name of list_recipes(), a YAML file, or a recipe itself. overrides: train("vision-digits",
    run={"epochs": 5}), or dotted, train("vision-digits", **{"run.epochs": 5}). A run that was stopped or killed goes
    on from its last checkpoint to the weights that an undisturbed one reaches; a finished one is left as it is. The
    folder then holds model.safetensors and config.json (for from_pretrained; a language run its tokenizer's files
    too), config.yaml, metrics.jsonl, parameters.csv, summary.json and checkpoints/.
    Raises ValueError (settings, images, text, divergence, a run of another recipe), OSError (nothing half-written is
    left), ImportError (naming the extra) and KeyboardInterrupt (the same call goes on).
    """
    loaded: AnyRecipe = load_recipe(recipe, overrides)
    folder = run_folder(loaded)
    if read_summary(folder) is not None and not loaded.run.overwrite:
        check_same(folder, loaded)
        return folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for module in PACKAGES[loaded.task]:
            require(module, extra="training")
        with _one_bar():
            _run(loaded, folder)
    return folder


@contextmanager
def _one_bar() -> Iterator[None]:
    """No bars of transformers beside the run's own, such as one for every file of weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _run(recipe: AnyRecipe, folder: Path) -> None:
    from tost.training.callbacks import Progress, StopOnInterrupt
    from tost.training.checkpoints import check_readable, last_checkpoint

    interrupt, progress = StopOnInterrupt(), Progress()
    trainer = _prepare(recipe, folder, [interrupt, progress])
    last, began = last_checkpoint(folder / CHECKPOINTS), time.perf_counter()
    if last is not None:
        check_readable(last)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{str(error) or 'interrupted'}; the same command goes on") from None
    except RuntimeError as error:
        if interrupt.asked:  # Ctrl-C reached the decoding workers too
            raise KeyboardInterrupt("interrupted; the same command goes on") from None
        if type(error).__name__ == "OutOfMemoryError":
            raise ValueError(OUT_OF_MEMORY) from error
        raise
    finally:
        interrupt.restore()
        progress.close()
    _finish(trainer, folder, time.perf_counter() - began, resumed=last is not None)


def _prepare(recipe: AnyRecipe, folder: Path, callbacks: list[Any]) -> Any:
    """The trainer, and the run's folder with its recipe in it: only once all settings have proved good."""
    from transformers.trainer_callback import ProgressCallback

    from tost.training.arguments import build_arguments
    from tost.training.callbacks import MetricsFile
    from tost.training.checkpoints import remove_unfinished
    from tost.training.engine import RunTrainer
    from tost.training.parameters import ParametersFile

    if (folder / CONFIG).is_file() and not recipe.run.overwrite:
        check_same(folder, recipe)
    task = make_task(recipe, folder)
    arguments = build_arguments(task, folder)
    module = task.build()
    if arguments.process_index == 0:
        prepare_folder(folder, recipe)
        remove_unfinished(folder / CHECKPOINTS)
        task.prepare(folder)
    files = [MetricsFile(folder / METRICS), ParametersFile(folder / PARAMETERS, task.optimised)]
    trainer = RunTrainer(task, module, args=arguments, callbacks=[*files, *task.callbacks])
    trainer.remove_callback(ProgressCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.accelerator.wait_for_everyone()
    return trainer


def make_task(recipe: AnyRecipe, folder: Path) -> Any:
    """The task of a recipe, its data read. folder: of the run, which may hold what an earlier start left."""
    if isinstance(recipe, LanguageRecipe):
        from tost.training.language import LanguageTask

        return LanguageTask(recipe, folder)
    if isinstance(recipe, SequenceRecipe):
        from tost.training.sequence import SequenceTask

        return SequenceTask(recipe, folder)
    if isinstance(recipe, MultimodalRecipe):
        from tost.training.multimodal import MultimodalTask

        return MultimodalTask(recipe, folder)
    if recipe.objective.loss == "mcr2":
        from tost.training.reduction import ReductionTask

        return ReductionTask(recipe, folder)
    from tost.training.vision import VisionTask

    return VisionTask(recipe, folder)


def _finish(trainer: Any, folder: Path, seconds: float, resumed: bool) -> None:
    """Score the held-out data and write the weights; summary.json comes last and says that the run is finished."""
    from tost.training.checkpoints import writing

    task = trainer.task
    scores = {"test": task.score(trainer.evaluate(task.test, metric_key_prefix="test"), "test")}
    watched = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if watched:
        scores["validation"] = task.score(watched[-1], "eval")
    summary = {
        "run": task.recipe.run.name,
        **task.facts(),
        "parameters": sum(p.numel() for p in task.optimised.parameters()),
        **scores,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "versions": {name: version(name) for name in ("torch", *PACKAGES[task.recipe.task], "numpy")}
        | {"python": platform.python_version()},
    }
    with writing(f"the weights in {folder}"):
        task.save(trainer, folder)
        if trainer.args.process_index == 0:
            with atomic_write(folder / SUMMARY, "w") as file:
                file.write(json.dumps(summary, indent=2) + "\n")
    trainer.accelerator.wait_for_everyone()
