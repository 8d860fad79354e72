"""Which models the page shows: those of the runs it was given, and shipped ones in place of what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tost.app.stream import open_language
from tost.generation.load import is_language, task_of
from tost.models.quantized import check_float
from tost.shipped import run_or_shipped, shipped
from tost.training import load_run
from tost.training.runs import read_summary

SHIPPED = {"vision": "flowers", "language": "stdlib"}


@dataclass
class VisionModel:
    """A vision run, read.  told: what it is, in a sentence."""

    name: str
    model: Any
    recipe: Any
    classes: list[str]
    told: str


@dataclass
class LanguageModel:
    """A language run, read.  told: what it is, in a sentence."""

    name: str
    model: Any
    tokenizer: Any
    told: str


def choose_runs(runs: Sequence[str]) -> tuple[str, str]:
    """(vision, language) folders: the given one of each kind, or the shipped one.

    Raises ValueError for two of a kind, and for what is no run.
    """
    found: dict[str, str] = {}
    for run in map(str, map(run_or_shipped, runs)):
        if not Path(run).is_dir():
            raise ValueError(f"{run}: no such run; `tost train RECIPE` makes one, without a run the page shows its own")
        check_float(run, "the page looks into float weights")
        kind = "language" if is_language(run) else task_of(Path(run))
        if kind == "multimodal":
            raise ValueError(f"{run} mixes images and text, and the page shows one or the other; give another")
        if kind not in SHIPPED:
            raise ValueError(f"{run} is a run on sequences, and the page shows images and text; give another")
        if kind in found:
            raise ValueError(f"the page shows one {kind} run, got {found[kind]} and {run}; leave out one of them")
        found[kind] = run
    for kind, name in SHIPPED.items():
        found.setdefault(kind, str(shipped(name)))
    return found["vision"], found["language"]


def open_vision(run: str) -> VisionModel:
    """The vision run at a folder."""
    model, recipe = load_run(run)
    summary = read_summary(Path(run)) or {}
    classes = [str(name) for name in summary.get("classes", range(model.num_classes))]
    test = summary.get("test") or {}
    right = f"; {test['accuracy']:.1%} right on {test['images']:,} held-out images" if "accuracy" in test else ""
    told = f"{recipe.model.name}, {_count(model)} parameters, {len(classes)} classes{right}."
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return VisionModel(Path(run).name, model.to(device), recipe, classes, told)


def open_text(run: str) -> LanguageModel:
    """The language run at a folder."""
    model, tokenizer = open_language(run)
    c = model.config
    told = (
        f"{_count(model)} parameters: {c.num_hidden_layers} layers, {c.hidden_size} features, "
        f"{c.num_attention_heads} heads, {c.vocab_size:,} tokens to choose from."
    )
    return LanguageModel(Path(run).name, model, tokenizer, told)


def _count(model: Any) -> str:
    count = sum(p.numel() for p in model.parameters())
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"
