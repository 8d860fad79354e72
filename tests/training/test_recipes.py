"""Recipes are typed, overridden by name, and wrong ones are refused in one line."""

import json
import subprocess
import sys

import pytest
import yaml

from tost.training import Recipe, list_recipes, load_recipe
from tost.training.recipe import flatten, nested
from tost.training.settings import FOLDER


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load_and_say_what_their_files_say(name):
    recipe = load_recipe(name)
    written = flatten(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
    assert {key: recipe.flat()[key] for key in written} == written
    assert recipe.run.name == name and recipe.description


def test_recipes_are_these():
    language = ["lm-openwebtext", "lm-stdlib", "lm-text"]
    assert list(list_recipes()) == [
        *language,
        "lra-image",
        "lra-listops",
        "lra-pathfinder",
        "lra-pathx",
        "lra-retrieval",
        "lra-text",
        "multimodal-captions",
        "multimodal-digits",
        "protein-fasta",
        "protein-peptides",
        "series-file",
        "series-motions",
        "vision-digits",
        "vision-fashion-mnist",
        "vision-finetune",
        "vision-flowers",
        "vision-imagenet",
        "vision-mcr2-digits",
    ]


def test_imagenet_is_the_papers():
    recipe = load_recipe("vision-imagenet")
    paper = {
        "optim.lr": 2e-4, "run.epochs": 400, "run.batch_size": 2048, "optim.warmup_epochs": 5,
        "optim.weight_decay": 0.05, "augment.rand_augment": 9, "augment.rand_augment_p": 0.5,
        "augment.mixup": 0.8, "augment.cutmix": 1.0, "augment.label_smoothing": 0.1, "augment.erasing": 0.25,
        "model.drop_path_rate": 0.05, "optim.ema": 0.99996,
    }  # fmt: skip
    assert {key: recipe.flat()[key] for key in paper} == paper


def test_overrides_are_nested_or_dotted_and_typed():
    a = load_recipe("vision-digits", {"run": {"epochs": 5}, "optim": {"betas": [0.8, 0.9]}})
    b = load_recipe("vision-digits", {"run.epochs": 5, "optim.betas": (0.8, 0.9)})
    assert a == b and a.run.epochs == 5 and a.optim.betas == (0.8, 0.9)
    assert a.data.mean == load_recipe("vision-digits").data.mean
    assert load_recipe(a, {"run.seed": 3}).run.epochs == 5
    assert load_recipe(Recipe()) == Recipe()


def test_none_overrides_a_recipes_value():
    assert load_recipe("vision-imagenet").augment.random_crop == [0.08, 1.0]
    assert load_recipe("vision-imagenet", {"augment.random_crop": None}).augment.random_crop is None
    whole = load_recipe("vision-imagenet")
    whole.augment.random_crop = None
    assert load_recipe(whole).augment.random_crop is None


@pytest.mark.parametrize(
    ("recipe", "overrides", "told"),
    [
        ("vision-digit", {}, "did you mean vision-digits"),
        ("absent.yaml", {}, "no such file"),
        ("vision-digits", {"run.epoch": 3}, "did you mean run.epochs"),
        ("vision-digits", {"lr": 3}, "did you mean optim.lr"),
        ("vision-digits", {"run": {"epochs": "many"}}, "run.epochs.*many"),
        ("vision-digits", {"run.precision": "int8"}, "run.precision.*float32.*int8"),
    ],
)
def test_wrong_recipes_are_refused(recipe, overrides, told):
    with pytest.raises(ValueError, match=told) as caught:
        load_recipe(recipe, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run: {epoch: 3}", "unknown setting run.epoch, did you mean run.epochs"),
        ("a: [", "not a YAML file"),
        ("7", "got int"),
    ],
)
def test_a_file_with_mistakes_is_refused_by_name(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_own_file_names_the_run(tmp_path):
    path = tmp_path / "mine [1].yaml"
    path.write_text("data: {source: digits}\nmodel: {options: {dim: 32}}\n")
    recipe = load_recipe(path, {"model.options.num_layers": 2})
    assert recipe.run.name == "mine [1]" and recipe.model.options == {"dim": 32, "num_layers": 2}


def test_nested_undoes_flatten():
    tree = {"model": {"name": "x", "options": {"dim": 3}}, "run": {"epochs": 2}}
    assert nested(flatten(tree)) == tree


def test_listing_recipes_needs_neither_torch_nor_transformers():
    code = (
        "import sys, json, types\n"
        "import importlib.util, importlib.machinery\n"
        "package = types.ModuleType('tost'); package.__path__ = [sys.argv[1]]; sys.modules['tost'] = package\n"
        "import tost.training; names = list(tost.training.list_recipes())\n"
        "print(json.dumps([names, [m for m in ('torch', 'transformers', 'kornia') if m in sys.modules]]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER.parent)], capture_output=True, text=True, check=True
    )
    names, heavy = json.loads(result.stdout)
    assert names and heavy == []
