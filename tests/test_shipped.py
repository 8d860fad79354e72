"""The models that come with the package: small, described truthfully, and usable without anything else."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
import yaml

from tost.cli import main
from tost.generation.load import load_language
from tost.shipped import SHIPPED, run_or_shipped, shipped
from tost.training import load_run


def test_all_together_are_small():
    assert sum(file.stat().st_size for name in SHIPPED for file in shipped(name).iterdir()) <= 8 * 10**6


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_finished_runs_that_know_no_foreign_folder(name):
    folder = shipped(name)
    files = {file.name for file in folder.iterdir()}
    assert {"README.md", "config.yaml", "model.safetensors", "summary.json", "parameters.csv"} <= files
    model, recipe = load_run(folder)
    assert all(p.isfinite().all() for p in model.parameters())
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["data"]["path"] is None and settings["run"]["folder"] == "runs"
    absolute = re.compile(r"(?<![\w.:/])/(root|home|work|tmp|Users)\b")
    assert not any(absolute.search(path.read_text()) for path in folder.iterdir() if path.suffix != ".safetensors")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_states_licence_and_measured_quality(name):
    card, summary = ((shipped(name) / file).read_text() for file in ("README.md", "summary.json"))
    test = json.loads(summary)["test"]
    figure = f"{100 * test['accuracy']:.2f}" if "accuracy" in test else f"{test['bits_per_byte']:.3f}"
    assert figure in card and "licence" in card.lower()
    assert re.search(r"tost train (vision-flowers|lm-stdlib)", card)


def test_the_flower_model_takes_photographs_of_any_size():
    model, recipe = load_run(shipped("flowers"))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 96, 160)).shape == (1, 5)
    assert json.loads((shipped("flowers") / "summary.json").read_text())["classes"] == [
        "daisy",
        "dandelion",
        "roses",
        "sunflowers",
        "tulips",
    ]


def test_the_language_model_writes_python(capsys):
    assert main(["generate", "stdlib", "--prompt", "import os\n\ndef ", "--max_new_tokens", "40"]) == 0
    assert re.search(r"\bself\b|\breturn\b|\(", capsys.readouterr().out.split("def ", 1)[1])
    assert load_language(str(shipped("stdlib")))[1].decode([5]) is not None


def test_a_folder_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_or_shipped("flowers") == shipped("flowers")
    assert str(run_or_shipped("runs/x")) == os.path.join("runs", "x")
    (tmp_path / "flowers").mkdir()
    assert str(run_or_shipped("flowers")) == "flowers"
    with pytest.raises(ValueError, match="no shipped model 'roses'; there are flowers, stdlib"):
        shipped("roses")
