"""A run of features is read by its nearest subspaces."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.evaluation.test_evaluate import SETTINGS
from tost.cli import main
from tost.evaluation import evaluate
from tost.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {
        **SETTINGS,
        "objective.features": 12,
        "objective.width": 2,
        "run.folder": str(tmp_path_factory.mktemp("runs")),
    }
    return train("vision-mcr2-digits", **settings)


def test_figures_are_the_summarys_and_follow_the_subspaces(run):
    result, summary = evaluate(run), json.loads((run / "summary.json").read_text())["test"]
    assert result["accuracy"] == pytest.approx(summary["accuracy"], abs=1e-9) and result["accuracy"] > 0.2
    assert result["reduction"] == pytest.approx(summary["reduction"], rel=1e-4)
    assert (result["images"], result["loss"]) == (359, -result["reduction"])
    path, saved = run / "subspaces.safetensors", (run / "subspaces.safetensors").read_bytes()
    basis = torch.zeros_like(load_file(path)["basis"])
    basis[7] = load_file(path)["basis"][7]  # all others leave everything
    save_file({"basis": basis}, path)
    try:
        assert evaluate(run)["right"] == 36  # the sevens among the held-out digits
    finally:
        path.write_bytes(saved)


def test_the_command_says_how_they_are_read(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    assert "10 classes, nearest subspace, R - R_c " in capsys.readouterr().out
