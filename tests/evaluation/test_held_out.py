"""A language run is scored on the documents its own recipe holds out, and on no others."""

import json
import random

import pytest
import torch
import yaml

from tests.textmodels import full_nats
from tost.cli import main
from tost.evaluation import evaluate
from tost.generation import load_language
from tost.training import train


def write_documents(folder):
    chance = random.Random(0)
    folder.mkdir()
    for i in range(40):
        words = [chance.choice(["alpha", "beta", "gamma"]) + chance.choice("+-") for _ in range(chance.randint(3, 30))]
        (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    settings = {
        "model.options": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "layer_scale_init": 1.0},
        "data.path": str(write_documents(folder / "text")),
        "data.tokenizer": "bytes",
        "data.context": 32,
        "data.test": 0.3,
        "optim.warmup_steps": 5,
        "run.batch_size": 8,
        "run.steps": 30,
        "run.checkpoint_steps": 30,
        "run.folder": str(folder / "runs"),
    }
    return train("lm-text", **settings)


@torch.no_grad()
def test_the_held_out_documents_are_scored(run):
    facts = json.loads((run / "summary.json").read_text())["data"]["test"]
    found = evaluate(run, length=32, stride=32)
    assert found["documents"] == facts["documents"] >= 10
    assert found["tokens"] == facts["tokens"] - facts["documents"]  # all but the first of each
    assert found["bytes"] == facts["bytes"] - facts["documents"]  # one token a byte; the end of text has none
    low, high = found["interval"]
    assert low < found["loss"] < high and found["loss"] < 4  # 5.5 before training


@torch.no_grad()
def test_streaming_is_one_pass_over_each_document(run):
    from tost.data.text import load_text
    from tost.training import load_recipe
    from tost.training.language import text_options

    model, tokenizer = load_language(run, device="cpu")
    test = load_text(text_options(load_recipe(run / "config.yaml")), tokenizer).test
    nats = torch.cat([full_nats(model, torch.from_numpy(test.documents.read(i).astype("int64"))) for i in test.order])
    found = evaluate(run, context="streaming", chunk=50, device="cpu")
    assert found["loss"] == pytest.approx(float(nats.mean()), rel=1e-4)


def test_another_text_is_refused(run, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    other = write_documents(tmp_path / "other")
    (other / "new.txt").write_text("delta")
    config["data"]["path"] = str(other)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="has changed since it was trained"):
        evaluate(folder)


def test_the_run_generates_and_is_evaluated_by_command(run, capsys):
    assert main(["generate", str(run), "--prompt", "alpha+ ", "--temperature", "0", "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out.startswith("alpha+ ")
    assert main(["evaluate", str(run)]) == 0
    assert "that the recipe holds out" in capsys.readouterr().out
