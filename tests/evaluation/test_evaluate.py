"""A saved run's accuracy is recomputed from its weights, with an honest interval."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tost.cli import main
from tost.evaluation import evaluate, wilson_interval
from tost.training import train

SETTINGS = {
    "model.name": "tost_nano_6_p4",
    "model.options": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_cls_layers": 1},
    "run.batch_size": 64,
    "run.epochs": 3,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("vision-digits", **{**SETTINGS, "run.folder": str(tmp_path_factory.mktemp("runs"))})


def test_accuracy_is_the_summarys_and_follows_the_weights(run, tmp_path):
    result = evaluate(run)
    summary = json.loads((run / "summary.json").read_text())
    assert result["accuracy"] == pytest.approx(summary["test"]["accuracy"], abs=1e-9)
    assert result["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5)
    assert (result["images"], result["split"]) == (359, "test") and result["accuracy"] > 0.2
    weights = load_file(run / "model.safetensors")
    saved = (run / "model.safetensors").read_bytes()
    weights["head.weight"], weights["head.bias"] = torch.zeros(10, 16), torch.eye(10)[7]
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    try:
        assert evaluate(run)["right"] == 36  # the sevens among the held-out digits
    finally:
        (run / "model.safetensors").write_bytes(saved)


def test_batch_size_changes_nothing(run):
    assert evaluate(run, batch_size=7)["right"] == evaluate(run)["right"]


def test_images_of_other_classes_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "classes": ["cat", "dog"]}))
    with pytest.raises(ValueError, match=r"was trained on the classes \['cat', 'dog'\]"):
        evaluate(tmp_path / "run")


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(350, 359, 0.9530, 0.9867), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_wilson_interval_is_the_published_one(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=2e-4)


def test_wilson_interval_refuses_nonsense():
    for right, total in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="wilson_interval expects"):
            wilson_interval(right, total)


def test_the_command_says_how_many_of_which_images(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "of 359 held-out images right (split 'test', 10 classes)" in printed and "95% interval" in printed
    assert main(["evaluate", str(run), "--json", "--batch_size", "50"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 359


@pytest.mark.parametrize(("path", "told"), [("absent", "no such run"), (".", "is not a run")])
def test_the_command_refuses_what_is_no_run(tmp_path, capsys, path, told):
    assert main(["evaluate", str(tmp_path / path)]) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.count("\n") == 1 and not printed.out
