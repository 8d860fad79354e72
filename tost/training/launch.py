"""Start a run, or go on with it."""

from __future__ import annotations

import json
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tost.extras import require
from tost.files import atomic_write
from tost.training.recipe import Recipe
from tost.training.runs import (
    CHECKPOINTS,
    METRICS,
    SUMMARY,
    check_same,
    prepare_folder,
    read_summary,
    run_folder,
)
from tost.training.settings import load_recipe

OUT_OF_MEMORY = (
    "out of memory on the device; split the batch with a larger --run.accumulate, or recompute activations with "
    "--run.gradient_checkpointing"
)


def train(recipe: str | Path | Recipe, **overrides: Any) -> Path:
    """Train what `recipe` says and return the run's folder, runs/NAME.

    recipe: a name of list_recipes(), a YAML file, or a Recipe. overrides: train("vision-digits", run={"epochs": 5}),
    or dotted, train("vision-digits", **{"run.epochs": 5}). A run that was stopped or killed goes on from its last
    checkpoint to the weights that an undisturbed one reaches; a finished one is left as it is. The folder then holds
    model.safetensors and config.json (for ToSTVision.from_pretrained), config.yaml, metrics.jsonl, summary.json and
    checkpoints/.
    Raises ValueError (settings, images, divergence, a run of another recipe), OSError (nothing half-written is left),
    ImportError (naming the extra) and KeyboardInterrupt (the same call goes on).
    """
    recipe = load_recipe(recipe, overrides)
    folder = run_folder(recipe)
    if read_summary(folder) is not None and not recipe.run.overwrite:
        check_same(folder, recipe)
        return folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for module in ("transformers", "accelerate", "kornia"):
            require(module, extra="training")
        _run(recipe, folder)
    return folder


def _run(recipe: Recipe, folder: Path) -> None:
    from tost.training.callbacks import Progress, StopOnInterrupt
    from tost.training.checkpoints import check_readable, last_checkpoint

    interrupt, progress = StopOnInterrupt(), Progress()
    trainer, images = _prepare(recipe, folder, [interrupt, progress])
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
    _finish(trainer, images, folder, time.perf_counter() - began, resumed=last is not None)


def _prepare(recipe: Recipe, folder: Path, callbacks: list[Any]) -> tuple[Any, Any]:
    """(trainer, images), and the run's folder with its recipe in it: only once all settings have proved good."""
    from transformers.trainer_callback import ProgressCallback

    from tost.training.build import build_arguments, build_images, build_model
    from tost.training.callbacks import MetricsFile, NextEpoch, UpdateAverage
    from tost.training.checkpoints import remove_unfinished
    from tost.training.engine import Classifier, RunTrainer

    images = build_images(recipe)
    arguments = build_arguments(recipe, folder, images)
    classifier = Classifier(build_model(recipe, images), recipe, len(images.classes))
    if arguments.process_index == 0:
        prepare_folder(folder, recipe)
        remove_unfinished(folder / CHECKPOINTS)
    always = [MetricsFile(folder / METRICS), UpdateAverage(classifier.update_average), NextEpoch(images.train)]
    trainer = RunTrainer(
        classifier, recipe, args=arguments, train_dataset=images.train, eval_dataset=images.validation, callbacks=always
    )
    trainer.remove_callback(ProgressCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.accelerator.wait_for_everyone()
    return trainer, images


def _finish(trainer: Any, images: Any, folder: Path, seconds: float, resumed: bool) -> None:
    """Score the held-out images and write the weights; summary.json comes last and says that the run is finished."""
    from tost.training.checkpoints import writing

    model = trainer.classifier.best.eval()
    scores = {
        "test": _score(trainer.evaluate(images.test, metric_key_prefix="test"), "test", images.held_out, images.test)
    }
    watched = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    if watched:
        scores["validation"] = _score(watched[-1], "eval", "validation", images.validation)
    summary = {
        "run": trainer.recipe.run.name,
        "model": trainer.recipe.model.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": images.classes,
        **scores,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "kornia", "numpy")}
        | {"python": platform.python_version()},
    }
    if trainer.args.process_index == 0:
        with writing(f"the weights in {folder}"):
            model.save_pretrained(folder)
            with atomic_write(folder / SUMMARY, "w") as file:
                file.write(json.dumps(summary, indent=2) + "\n")
    trainer.accelerator.wait_for_everyone()


def _score(metrics: dict[str, float], prefix: str, split: str, images: Any) -> dict[str, Any]:
    accuracy, loss = (metrics[f"{prefix}_{name}"] for name in ("accuracy", "loss"))
    return {"split": split, "images": len(images), "accuracy": accuracy, "loss": loss}
