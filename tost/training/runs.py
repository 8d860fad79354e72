"""The folder of a run: what is in it, whether it is finished, how to read it back."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tost.files import atomic_write
from tost.training.recipe_language import LanguageRecipe
from tost.training.recipe_multimodal import MultimodalRecipe
from tost.training.recipe_sequence import SequenceRecipe
from tost.training.settings import AnyRecipe, load_recipe

CONFIG, SUMMARY, METRICS, CHECKPOINTS = "config.yaml", "summary.json", "metrics.jsonl", "checkpoints"
PARAMETERS, SUBSPACES = "parameters.csv", "subspaces.safetensors"
_PART = re.compile(
    r"\.(config\.yaml|config\.json|data\.json|metrics\.jsonl|parameters\.csv|summary\.json|model\.safetensors|subspaces\.safetensors)\.[0-9a-f]{8}\.part"
)
# Settings that change where and how fast a run goes, not what comes out of it.
HARMLESS = {
    "description",
    "data.path",
    "data.workers",
    "run.folder",
    "run.name",
    "run.overwrite",
    "run.checkpoint_epochs",
    "run.checkpoint_steps",
    "run.gradient_checkpointing",
}


def run_folder(recipe: AnyRecipe) -> Path:
    """Where the run of `recipe` is kept."""
    name = recipe.run.name or "run"
    if not name.strip(".") or "/" in name or "\\" in name:
        raise ValueError(f"--run.name is the name of a folder in --run.folder, got {name!r}")
    return Path(recipe.run.folder) / name


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a finished run, None of an unfinished one."""
    path = folder / SUMMARY
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_config(folder: Path, recipe: AnyRecipe) -> None:
    """config.yaml: the resolved recipe."""
    import yaml

    settings = asdict(recipe)
    settings["optim"]["betas"] = list(recipe.optim.betas)
    settings["run"]["overwrite"] = False
    with atomic_write(folder / CONFIG, "w") as file:
        file.write(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def read_config(folder: Path) -> Any:
    """The recipe of the run in `folder`; ValueError if there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such run; `tost train RECIPE` makes one")
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is not a run of `tost train`: it has no {CONFIG}")
    return load_recipe(folder / CONFIG)


def check_same(folder: Path, recipe: AnyRecipe) -> None:
    """ValueError naming the settings in which `recipe` is not the one that the run in `folder` was started with."""
    before, now = read_config(folder).flat(), recipe.flat()
    changed = [k for k in sorted({**before, **now}) if k not in HARMLESS and before.get(k) != now.get(k)]
    if changed:
        told = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ValueError(
            f"{folder} was started with another recipe: {told}{more}; go on with the old settings, choose another "
            "--run.name, or start over with --run.overwrite true"
        )


def prepare_folder(folder: Path, recipe: AnyRecipe) -> None:
    """Make the run's folder, or check that the run in it is of this recipe; with run.overwrite, empty it first."""
    for left in folder.glob(".*.part") if folder.exists() else ():  # of a file that a killed process was writing
        if _PART.fullmatch(left.name):
            left.unlink(missing_ok=True)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / CONFIG).is_file():
            raise ValueError(f"{folder} holds files that are no run of `tost train`; choose another --run.name")
        if not recipe.run.overwrite:
            return check_same(folder, recipe)
        _remove(folder)
    write_config(folder, recipe)
    return None


def _remove(folder: Path) -> None:
    """Delete a run; what a kill leaves of it no longer has the run's name."""
    removed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    os.replace(folder, removed)
    shutil.rmtree(removed)


def load_run(run: str | Path) -> tuple[Any, Any]:
    """(model in eval mode, recipe) of a finished run; ValueError if the folder is no run, unfinished or damaged.

    A vision run gives a ToSTVision and a Recipe, a language run a ToSTForCausalLM and a LanguageRecipe, a run on
    sequences a ToSTSequence and a SequenceRecipe, one on images and text a ToSTForImageTextToText and a
    MultimodalRecipe. One that `tost quantize` wrote computes in eight bits.
    """
    from tost.models.quantized import is_quantized, load_quantized

    folder = Path(run)
    recipe = read_config(folder)
    if read_summary(folder) is None:
        raise ValueError(f"{folder} is not finished; the `tost train` command that started it goes on with it")
    if is_quantized(folder):
        return load_quantized(folder), recipe
    if isinstance(recipe, LanguageRecipe):
        from tost.models.language import ToSTForCausalLM

        return _load_transformer(ToSTForCausalLM, folder), recipe
    if isinstance(recipe, MultimodalRecipe):
        from tost.models.multimodal import ToSTForImageTextToText

        return _load_transformer(ToSTForImageTextToText, folder), recipe
    from tost.models import ToSTSequence, ToSTVision

    kind = ToSTSequence if isinstance(recipe, SequenceRecipe) else ToSTVision
    return kind.from_pretrained(folder), recipe


def _load_transformer(kind: Any, folder: Path) -> Any:
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(folder).eval()
    except (SafetensorError, OSError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{folder}: model.safetensors is missing or not a whole safetensors file ({told})") from None
