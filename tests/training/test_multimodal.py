"""A run over images and text learns, says what `evaluate` says, answers from its folder, goes on in the same bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoProcessor

from tost.cli import main
from tost.data.questions import GridQuestions, digit_scans
from tost.evaluation import evaluate
from tost.evaluation.command import sentence
from tost.training import load_recipe, load_run, train
from tost.training.multimodal import MultimodalTask, answer_scores

TINY = {
    "model.options": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8},
    "data.grid": [1, 2], "data.kinds": ["how many", "which"], "data.samples": 2000, "data.evaluated": 64,
    "data.questions": 2, "optim.lr": 1e-2, "optim.warmup_steps": 5,
    "run.batch_size": 32, "run.steps": 40, "run.checkpoint_steps": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train("multimodal-digits", **{**TINY, "run.folder": str(tmp_path_factory.mktemp("runs"))})


def test_it_learns_and_evaluate_says_the_same(finished):
    summary, found = json.loads((finished / "summary.json").read_text())["test"], evaluate(finished)
    assert summary["accuracy"] == pytest.approx(found["accuracy"], abs=1e-12)
    assert summary["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert summary["kinds"] == pytest.approx({kind: part["accuracy"] for kind, part in found["kinds"].items()})
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.5 * losses[0] and found["kinds"]["how many"]["accuracy"] >= 0.4
    assert found["kinds"]["which"]["questions"] == 32
    assert found["right"] == sum(part["right"] for part in found["kinds"].values())
    told = sentence(found)
    assert f"{found['accuracy']:.2%}" in told and "  which " in told and "always the same answer" in told


def test_it_answers_from_its_folder(finished):
    """What transformers reads from the folder writes what `evaluate` counts as right."""
    model, processor = AutoModelForImageTextToText.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    items = GridQuestions(*digit_scans()["test"], "test", 64, (1, 2), 1, ["how many", "which"])
    asked = [items[i] for i in range(64)]
    batch = processor(
        images=[item["image"] for item in asked],
        text=[f"<image>{item['questions'][0].text}" for item in asked],
        padding=True,
        return_tensors="pt",
    )
    written = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, batch["input_ids"].shape[1] :]
    answers = processor.batch_decode(written, skip_special_tokens=True)
    right = sum(answer == f" {item['questions'][0].answer}" for answer, item in zip(answers, asked))
    assert right == evaluate(finished)["right"]


def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path):
    stopped = tmp_path / finished.name
    shutil.copytree(finished, stopped)
    for left in ("summary.json", "model.safetensors", "config.json"):
        (stopped / left).unlink()
    shutil.rmtree(stopped / "checkpoints" / "checkpoint-40")
    again = train("multimodal-digits", **{**TINY, "run.folder": str(tmp_path)})
    one, other = load_file(finished / "model.safetensors"), load_file(again / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not [path for path in again.rglob("*") if path.suffix in (".bin", ".pkl", ".pt") and "model" in path.name]


def test_a_row_is_image_question_answer():
    task = MultimodalTask(load_recipe("multimodal-digits", TINY), Path("none"))
    item = task.train[3]
    ids, labels = task.collate.row(item["questions"], 2)
    tokenizer = task.processor.tokenizer
    texts = [f"{one.text} {one.answer}<|endoftext|>" for one in item["questions"]]
    assert tokenizer.decode(ids) == "<image>" * 2 + "".join(texts)
    judged = [token for token, label in zip(ids, labels) if label >= 0]
    assert tokenizer.decode(judged) == "".join(f" {one.answer}<|endoftext|>" for one in item["questions"])
    assert [label for label in labels if label >= 0] == judged
    batch = task.collate([item, task.train[4]])
    want = task.processor(images=[item["image"], task.train[4]["image"]], return_tensors="pt")["pixel_values"]
    assert_close(batch["pixel_values"], want, rtol=1e-6, atol=1e-6)


def test_controls_do_not_see_what_is_hidden():
    def batch(hide):
        task = MultimodalTask(load_recipe("multimodal-digits", {**TINY, "data.hide": hide}), Path("none"))
        return task.collate([task.train[i] for i in range(4)]), task.processor.tokenizer

    whole, _ = batch("none")
    blind, _ = batch("image")
    mute, tokenizer = batch("question")
    assert torch.equal(whole["input_ids"], blind["input_ids"]) and len(blind["pixel_values"].unique()) == 1
    assert torch.equal(whole["pixel_values"], mute["pixel_values"])
    assert not [row for row in mute["input_ids"] if "?" in tokenizer.decode(row)]


def test_scores_are_the_definitions():
    logits = torch.randn(3, 5, 7)
    labels = torch.tensor([[-100, 2, 3, -100, -100], [-100, -100, -100, 1, 6], [-100, -100, 4, -100, -100]])
    logits[0, 0, 2] = logits[0, 1, 3] = logits[2, 1, 4] = 9
    logits[1, 2, 1], logits[1, 3, 6] = 9, -9
    size = torch.arange(7)
    got = answer_scores(logits, labels, size)
    assert got[:, 0].tolist() == [1, 0, 1] and got[:, 1].tolist() == [2, 2, 1]
    assert got[:, 3].tolist() == [5, 7, 4]
    nats = -torch.log_softmax(logits.double(), -1)
    want = [nats[0, 0, 2] + nats[0, 1, 3], nats[1, 2, 1] + nats[1, 3, 6], nats[2, 1, 4]]
    assert_close(got[:, 2], torch.stack(want), rtol=1e-5, atol=1e-5)


def test_captions_are_learned(tmp_path):
    lines = []
    for i in range(24):
        value = 230 if i % 2 else 20
        Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "caption": "a bright day" if i % 2 else "the dark night"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    settings = {
        **TINY, "data.path": str(tmp_path), "data.image_size": 8, "data.tokenizer": "bytes", "data.workers": 0,
        "run.folder": str(tmp_path / "runs"), "run.batch_size": 8, "run.steps": 40, "data.test": 0.2,
    }  # fmt: skip
    run = train("multimodal-captions", **{k: v for k, v in settings.items() if "kinds" not in k and "grid" not in k})
    found = evaluate(run)
    assert found["bits_per_byte"] < 2 and "held-out captions" in sentence(found)
    assert json.loads((run / "summary.json").read_text())["test"]["bytes"] == found["bytes"] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.options": {"patch_size": 3}}, "not divisible into patches of 3"),
        ({"model.options": {"patch": 4}}, "no option 'patch'"),
        ({"model.preset": "nan"}, "unknown model.preset 'nan'"),
        ({"data.vocab_size": 9}, "257"),
        ({"run.batch_size": 9999}, "more than the 2000 training items"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        train("multimodal-digits", **{**TINY, **change, "run.folder": str(tmp_path)})


@pytest.mark.parametrize("command", ["generate", "analyze", "app"])
def test_other_commands_refuse_it_in_one_line(finished, command, capsys):
    options = ["--prompt", "x"] if command == "generate" else []
    assert main([command, str(finished), *options]) != 0
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("tost ") and ("multimodal" in told or "mixes images and text" in told)


def test_weights_begin_another_run(finished, tmp_path):
    recipe = load_recipe("multimodal-digits", {**TINY, "model.weights": str(finished)})
    begun, before = MultimodalTask(recipe, tmp_path).model.state_dict(), load_run(finished)[0].state_dict()
    assert all(torch.equal(begun[name], before[name]) for name in before)
