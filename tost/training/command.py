"""`tost train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from tost.training.parsing import parse_with
from tost.training.settings import (
    FOLDER,
    AnyRecipe,
    as_recipe,
    find_recipe,
    list_recipes,
    named,
    recipe_kind,
    recipe_parser,
    variants,
)

USAGE = """usage: tost train RECIPE [--SETTING VALUE ...]

Train a recipe, or go on with it: a run that was stopped or killed continues from its last checkpoint when the same
command is given again. The run is kept in runs/NAME.

recipes:
{recipes}
  FILE.yaml             a recipe of your own (copy one with: tost train RECIPE --print_config > FILE.yaml)

settings:
  tost train RECIPE --help           all of them, with the recipe's values
  tost train RECIPE --run.epochs 5 --optim.lr 1e-3 --model.name tost_tiny_12_p16
  tost train RECIPE --data.path FOLDER --run.name NAME
  tost train RECIPE --epochs 5 --mixer none        the section may be left out where only one has the setting
  tost train lra-listops --quick     a recipe's variant: {switches}
  tost train lm-text --data.path 'books/*.txt' --model.preset tiny --model.options.dropout 0.1

more than one GPU or machine:
  accelerate launch -m tost train RECIPE ...
"""


def usage() -> str:
    """What `tost train --help` prints."""
    width = max(map(len, list_recipes()))
    lines = (f"  {name:<{max(width, 20)}}  {line}" for name, line in list_recipes().items())
    return USAGE.format(recipes="\n".join(lines), switches=known_variants())


def known_variants() -> str:
    """Which recipes have which variants: "--quick, --shared of lra-*"."""
    owners: dict[str, list[str]] = {}
    for path in sorted((FOLDER / "variants").glob("*.yaml")):
        owner, _, switch = path.stem.rpartition(".")
        if owner not in list_recipes():  # of a family; a recipe's own files come on top
            owners.setdefault(f"{owner}-*", []).append(f"--{switch}")
    return "; ".join(f"{', '.join(switches)} of {owner}" for owner, switches in owners.items())


def chosen_variants(name: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The run's name and the arguments in which the recipe's variants, such as --quick, are its files of settings."""
    files, rest = variants(name), list(arguments)
    every = {switch for recipe in list_recipes() for switch in variants(recipe)}
    for switch in sorted(every):
        if f"--{switch}" not in rest:
            continue
        if switch not in files:
            raise ValueError(f"{name} has no --{switch}; there are {known_variants()}")
        rest.remove(f"--{switch}")
        name, rest = f"{name}-{switch}", [*(f"--config={file}" for file in files[switch]), *rest]
    return name, rest


def build_parser(arguments: Sequence[str]) -> ArgumentParser | None:
    """The parser of the recipe named first in `arguments`; without a name, None where help is asked for."""
    name = next(iter(arguments), "--help")
    if name in ("-h", "--help"):
        return None
    if name.startswith("-"):
        raise ValueError(
            f"expected the recipe before its settings, got {name} first; `tost train --help` lists the recipes"
        )
    return recipe_parser(find_recipe(name), prog=f"tost train {name}")


def run(arguments: Sequence[str]) -> None:
    """Train what the command line says, then tell where the run is and how good it is."""
    parser = build_parser(arguments)
    if parser is None:
        print(usage(), end="")
        return
    name, rest = chosen_variants(arguments[0], arguments[1:])
    parsed = parse_with(parser, rest)
    report(named(as_recipe(parser, parsed, recipe_kind(find_recipe(arguments[0]))), name))


def report(recipe: AnyRecipe) -> None:
    """Train and print the outcome in a few lines (on the first process of a distributed run)."""
    import os

    from tost.training.launch import train
    from tost.training.runs import read_summary, run_folder

    folder = run_folder(recipe)
    finished = read_summary(folder) is not None and not recipe.run.overwrite
    train(recipe)
    if os.environ.get("RANK", "0") != "0":
        return
    if finished:
        print(
            f"{folder} is finished and was left as it is; to train again: --run.overwrite, or another --run.name",
            file=sys.stderr,
        )
    summary = read_summary(folder)
    assert summary is not None
    print(_verdict(summary["test"]))
    sizes = f"{summary['parameters']:,} parameters, {summary['steps']} steps, {summary['seconds']:.0f} s"
    print(f"run      {folder} ({sizes})")
    if recipe.task == "language":
        print(f'next     tost generate {folder} --prompt "def "')
        print(f"         tost evaluate {folder}")
    else:
        print(f"next     tost evaluate {folder}")


def _verdict(score: dict[str, Any]) -> str:
    """One line about the held-out data."""
    if "accuracy" in score:
        what = next(name for name in ("images", "questions", "sequences") if name in score)
        return f"accuracy {score['accuracy']:.2%} on {score[what]} held-out {what} ({score['split']})"
    return (
        f"loss     {score['loss']:.4f} nats a token, perplexity {score['perplexity']:.2f}, "
        f"{score['bits_per_byte']:.3f} bits per byte on {score['bytes']:,} held-out bytes"
    )
