"""Recipes by name: read from YAML, checked, overridden setting by setting."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from tost.training.parsing import did_you_mean, one_line
from tost.training.recipe import Recipe, flatten, nested
from tost.training.recipe_language import LanguageRecipe
from tost.training.recipe_multimodal import MultimodalRecipe
from tost.training.recipe_sequence import SequenceRecipe

AnyRecipe = Recipe | LanguageRecipe | SequenceRecipe | MultimodalRecipe
Kind = type[Recipe] | type[LanguageRecipe] | type[SequenceRecipe] | type[MultimodalRecipe]
TASKS: dict[str, Kind] = {
    "vision": Recipe,
    "language": LanguageRecipe,
    "sequence": SequenceRecipe,
    "multimodal": MultimodalRecipe,
}

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
OPTIONS = "model.options."


def list_recipes() -> dict[str, str]:
    """Name -> one line of what it does, of the recipes that come with the package."""
    import yaml

    return {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["description"]
        for path in sorted(FOLDER.glob("*.yaml"))
    }


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe's name, or the path of a YAML file itself; ValueError with close names otherwise."""
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise ValueError(f"recipe {name}: no such file")
        return Path(name)
    known = [path.stem for path in sorted(FOLDER.glob("*.yaml"))]
    if str(name) not in known:
        raise ValueError(f"unknown recipe {str(name)!r}{did_you_mean(str(name), known)}; there are {', '.join(known)}")
    return FOLDER / f"{name}.yaml"


def variants(name: str | Path) -> dict[str, list[Path]]:
    """Switch -> files of settings that replace the recipe's: those of `tost train lra-listops --quick` are
    variants/lra.quick.yaml, which is for every recipe lra-..., then variants/lra-listops.quick.yaml."""
    found: dict[str, list[Path]] = {}
    if Path(name).name != str(name):
        return found
    for owner in (str(name).partition("-")[0], str(name)):
        for path in sorted((FOLDER / "variants").glob(f"{glob.escape(owner)}.*.yaml")):
            found.setdefault(path.stem.rpartition(".")[2], []).append(path)
    return found


def load_recipe(recipe: str | Path | AnyRecipe, overrides: Mapping[str, Any] | None = None) -> Any:
    """A recipe by name, by YAML file or itself, with settings replaced: {"run.epochs": 5} or {"run": {"epochs": 5}}.

    {"quick": True} takes the recipe's variant of that name, where it has one, and names the run after it.
    Returns a Recipe, LanguageRecipe, SequenceRecipe or MultimodalRecipe, as its `task` says (vision, where it says
    nothing).
    Raises ValueError for an unknown recipe or setting (with close names) and for values of the wrong type.
    """
    changes = flatten(overrides or {})
    name = recipe
    if isinstance(recipe, AnyRecipe):
        kind: Any = type(recipe)
        parser, base = recipe_parser(kind=kind), {k: v for k, v in recipe.flat().items() if v is not None}
        changes = {**base, **changes}
    else:
        path = find_recipe(recipe)
        kind, parser, base = recipe_kind(path), recipe_parser(path), flatten(_read_yaml(path))
        for switch, files in variants(recipe).items():
            if changes.pop(switch, False):
                replaced = {key: value for file in files for key, value in flatten(_read_yaml(file)).items()}
                changes, name = {**replaced, **changes}, f"{name}-{switch}"
    check_keys(changes, kind)
    options = {key[len(OPTIONS) :]: changes.pop(key) for key in list(changes) if key.startswith(OPTIONS)}
    if options:
        changes["model.options"] = {**changes.get("model.options", base.get("model.options", {})), **options}
    try:
        loaded = as_recipe(parser, parser.parse_object(nested(changes)), kind)
    except (ArgumentError, TypeError, KeyError) as error:
        raise ValueError(one_line(error)) from None
    return loaded if isinstance(name, AnyRecipe) else named(loaded, name)


def recipe_kind(path: Path) -> Kind:
    """The class of the recipe in a YAML file, told from its `task`."""
    task = _read_yaml(path).get("task", "vision")
    if task not in TASKS:
        raise ValueError(f"{path}: task is one of {', '.join(TASKS)}, got {task!r}")
    return TASKS[task]


def named(recipe: Any, source: str | Path) -> Any:
    """`recipe`, its run named after the recipe's name or file unless it has a name."""
    recipe.run.name = recipe.run.name or Path(source).stem
    return recipe


def recipe_parser(path: Path | None = None, prog: str = "tost train", kind: Kind = Recipe) -> ArgumentParser:
    """A parser of every setting (`--run.epochs 5`), with the values of the YAML file at `path` for defaults."""
    kind = kind if path is None else recipe_kind(path)
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file of settings that replace the recipe's")
    parser.add_class_arguments(kind, as_group=False)
    if path is not None:
        check_keys(flatten(_read_yaml(path)), kind, where=f"{path}: ")
        parser.default_config_files = [glob.escape(str(path))]
    return parser


def as_recipe(parser: ArgumentParser, parsed: Namespace, kind: Kind) -> Any:
    """The recipe that `parser` read."""
    values = parser.instantiate(parsed)
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def check_keys(given: Iterable[str], kind: Kind = Recipe, where: str = "") -> None:
    """ValueError with close names if one of the dotted names `given` is no setting of a recipe."""
    known = kind().flat()
    for key in given:
        if key not in known and not key.startswith(OPTIONS):
            raise ValueError(
                f"{where}unknown setting {key}{did_you_mean(key, known)}; `tost train NAME --help` lists all"
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({one_line(error)})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected settings such as `run: {{epochs: 5}}`, got {type(settings).__name__}")
    return settings
