"""Recipes in, runs out: `train` starts or goes on with a run, `load_run` reads one back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tost.training.launch import train
    from tost.training.recipe import Recipe
    from tost.training.runs import load_run
    from tost.training.settings import list_recipes, load_recipe

# Loaded at first use: the command line lists recipes without waiting for torch and transformers.
_LAZY = {
    "Recipe": "tost.training.recipe",
    "list_recipes": "tost.training.settings",
    "load_recipe": "tost.training.settings",
    "load_run": "tost.training.runs",
    "train": "tost.training.launch",
}

__all__ = ["Recipe", "list_recipes", "load_recipe", "load_run", "train"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tost.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
