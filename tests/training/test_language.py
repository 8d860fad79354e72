"""A language run learns, holds what it promises, goes on in the same bits, and refuses in one line what doesn't fit."""

import json
import math
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tost.data.packing import collate
from tost.data.text import load_text
from tost.models.language import ToSTForCausalLM, preset
from tost.training import load_recipe, load_run, train
from tost.training.engine import RunTrainer
from tost.training.groups import parameter_groups
from tost.training.language import LanguageTask, row_nats, text_options
from tost.training.recipe_language import LanguageRecipe

# A model and a text small enough to train in a second or two: words of a little grammar, 16 bytes of context.
MODEL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY = {
    "model.options": {**MODEL, "layer_scale_init": 1.0},
    "data.source": "files",
    "data.tokenizer": "bytes",
    "data.context": 16,
    "data.test": 0.1,
    "data.validation": 0.1,
    "optim.warmup_steps": 5,
    "run.batch_size": 16,
    "run.checkpoint_steps": 10,
}


def corpus(folder, documents=60):
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(documents):
        words = [chance.choice(["alpha", "beta", "gamma"]) + chance.choice("+-") for _ in range(chance.randint(3, 30))]
        (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    settings = {
        **TINY,
        "data.path": str(text),
        "run.folder": str(tmp_path_factory.mktemp("runs")),
        "run.steps": 80,
        "optim.lr": 1e-2,
    }
    return train("lm-stdlib", **settings), settings


@pytest.fixture
def tiny(text, tmp_path):
    return {**TINY, "data.path": str(text), "run.folder": str(tmp_path / "runs"), "run.steps": 25}


def test_it_learns_more_than_the_frequencies_of_bytes(finished, text):
    run, _ = finished
    counts = Counter(b"".join(p.read_bytes() for p in text.iterdir()))
    total = sum(counts.values())
    unigram = -sum(n / total * math.log(n / total) for n in counts.values())
    test = json.loads((run / "summary.json").read_text())["test"]
    assert test["loss"] < 0.6 * unigram
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))


def test_a_run_holds_what_it_promises(finished):
    run, _ = finished
    names = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    names |= {"config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "data.json", "parameters.csv"}
    assert names <= {p.name for p in run.iterdir()} and not list(run.rglob("*.bin")) and not list(run.glob(".*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    watched = [line for line in lines if "validation_bits_per_byte" in line]
    assert [line["step"] for line in watched] == [10, 20, 30, 40, 50, 60, 70, 80]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["validation"]["loss"] == watched[-1]["validation_loss"]
    tokenizer, model = AutoTokenizer.from_pretrained(run), AutoModelForCausalLM.from_pretrained(run)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 256
    assert tokenizer.decode(tokenizer("alpha+ β")["input_ids"]) == "alpha+ β"


def test_a_run_loads_and_scores_what_its_summary_says(finished):
    """Token by token, document by document: nothing of one document is seen from another."""
    run, _ = finished
    model, recipe = load_run(run)
    assert isinstance(model, ToSTForCausalLM) and isinstance(recipe, LanguageRecipe) and not model.training
    rows, nats, tokens, size = load_text(text_options(recipe)).test, 0.0, 0, 0
    for row in (rows[i] for i in range(len(rows))):
        bounds = [*row["starts"].tolist(), len(row["ids"])]
        for begin, end in zip(bounds, bounds[1:]):
            ids = row["ids"][begin : min(end, row["length"])]
            if len(ids) > 1:
                with torch.no_grad():
                    logits = model(ids[None]).logits[0, :-1].double()
                nats -= float(logits.log_softmax(-1).gather(1, ids[1:, None]).sum())
                tokens, size = tokens + len(ids) - 1, size + int((ids[1:] < 256).sum())
    test = json.loads((run / "summary.json").read_text())["test"]
    assert (test["tokens"], test["bytes"]) == (tokens, size)
    assert test["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert test["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_the_loss_of_packed_rows_is_that_of_the_counted_labels():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 11), torch.randint(11, (3, 6))
    labels[0, 2], labels[2] = -100, -100
    nats, counted = row_nats(logits, labels)
    expected = [
        sum(-float(logits[b, n - 1].log_softmax(-1)[labels[b, n]]) for n in range(1, 6) if labels[b, n] >= 0)
        for b in range(3)
    ]
    np.testing.assert_allclose(nats, expected, rtol=1e-5)
    assert counted.sum(1).tolist() == [4, 5, 0]


def test_stopped_and_undisturbed_runs_end_in_the_same_bits(tiny, monkeypatch):
    settings = {**tiny, "model.options": {**TINY["model.options"], "dropout": 0.2}, "run.accumulate": 2}
    whole = train("lm-stdlib", **settings, **{"run.name": "whole"})
    step = RunTrainer.training_step

    def stops(self, *arguments, **named):
        if self.state.global_step == 17:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    monkeypatch.setattr(RunTrainer, "training_step", stops)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        train("lm-stdlib", **settings, **{"run.name": "stopped"})
    stopped = whole.with_name("stopped")
    assert {"tokenizer.json", "data.json"} <= {p.name for p in stopped.iterdir()}, "a stopped run can't be looked at"
    monkeypatch.undo()
    train("lm-stdlib", **settings, **{"run.name": "stopped"})
    for name in ("model.safetensors", "metrics.jsonl", "parameters.csv"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()


def test_micro_batches_weigh_their_tokens(tiny):
    """One batch of 16 rows, or 8 micro-batches of 2 rows with different numbers of predicted tokens: one step."""
    plain = train("lm-stdlib", **{**tiny, "run.name": "plain", "run.steps": 3})
    parts = train("lm-stdlib", **{**tiny, "run.name": "parts", "run.steps": 3, "run.accumulate": 8})
    saving = {**tiny, "run.name": "saving", "run.steps": 3, "run.gradient_checkpointing": True}
    a, b, c = (load_file(run / "model.safetensors") for run in (plain, parts, train("lm-stdlib", **saving)))
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(c[name], a[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "steps"), [({"run.tokens": 1000}, 4), ({"run.epochs": 1}, None), ({"run.steps": 2}, 2)]
)
def test_how_long_a_run_is(tiny, settings, steps):
    recipe = load_recipe("lm-stdlib", {**tiny, "run.steps": None, "run.tokens": None, **settings})
    task = LanguageTask(recipe, Path("nowhere"))
    assert task.plan().steps == (steps or len(task.train) // 16)


def test_matrices_decay_and_temperatures_do_not():
    model = ToSTForCausalLM(preset("nano", vocab_size=50))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 1e-3, 0.1)
    free = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    decayed = {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert free | decayed == set(names.values()) and not free & decayed
    assert {"model.embedding.weight", "model.positions.weight", "model.blocks.0.mlp.fc1.weight"} <= decayed
    assert {"model.blocks.0.mixer.temperature", "model.blocks.0.mixer.position_bias", "model.norm.weight"} <= free


def test_weights_start_a_run_with_their_own_tokenizer(finished, tiny):
    run, _ = finished
    before = json.loads((run / "summary.json").read_text())["test"]["loss"]
    settings = {**tiny, "model.weights": str(run), "data.tokenizer": str(run), "run.steps": 1, "optim.lr": 1e-9}
    again = train("lm-text", **{**settings, "model.options": {}, "data.section": 0})
    assert json.loads((again / "summary.json").read_text())["test"]["loss"] == pytest.approx(before, rel=1e-4)


def test_the_batch_that_is_trained_on_is_packed(tiny, monkeypatch):
    seen = []
    forward = ToSTForCausalLM.forward
    monkeypatch.setattr(
        ToSTForCausalLM, "forward", lambda self, *a, **k: (seen.append(k.get("cu_seqlens")), forward(self, *a, **k))[1]
    )
    train("lm-stdlib", **{**tiny, "run.steps": 1, "data.validation": 0})
    assert seen[0] is not None and seen[0][-1] == 256 and set(range(0, 257, 16)) <= set(seen[0].tolist())
    assert collate is LanguageTask.collate


def mismatch(run, tmp_path):
    return {"model.weights": str(run), "data.tokenizer": "bpe"}, "set --data.tokenizer"


def small_vocabulary(run, tmp_path):
    ToSTForCausalLM(preset("nano", vocab_size=100)).save_pretrained(tmp_path / "weights")
    return {
        "model.weights": str(tmp_path / "weights"),
        "model.options": {},
    }, "vocabulary of 100, the tokenizer one of 257"


def other_tokenizer(run, tmp_path):
    shutil.copytree(run, tmp_path / "weights")
    path = tmp_path / "weights" / "tokenizer.json"
    path.write_text(path.read_text().replace('"a"', '"\u0101"', 1))
    return {"model.weights": str(tmp_path / "weights"), "model.options": {}}, "trained with another tokenizer"


def same_vocabulary_option(run, tmp_path):
    return {"model.options": {**MODEL, "vocab_size": 50}}, "vocabulary of 50, the tokenizer one of 257"


@pytest.mark.parametrize("make", [mismatch, small_vocabulary, other_tokenizer, same_vocabulary_option])
def test_a_tokenizer_of_another_model_is_refused(make, finished, tiny, tmp_path):
    settings, told = make(finished[0], tmp_path)
    with pytest.raises(ValueError, match=told) as caught:
        train("lm-stdlib", **{**tiny, **settings})
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"run.batch_size": 5000}, r"more than the \d+ rows of 16 tokens"),
        ({"model.preset": "huge"}, "unknown model.preset 'huge'; choose one of nano"),
        ({"model.options": {"hiden_size": 3}}, "did you mean hidden_size"),
        (
            {"model.options": {"max_position_embeddings": 8, "position_mode": "learned"}},
            "learned positions for 8 tokens and data.context is 16",
        ),
        ({"optim.warmup_epochs": 1}, "unknown setting optim.warmup_epochs, did you mean optim.warmup_steps"),
        ({"run.precision": "int8"}, "run.precision"),
        ({"data.path": "nowhere"}, "no such file or folder"),
        ({"run.batch_size": 7, "run.accumulate": 2}, "choose a multiple of 2"),
    ],
)
def test_bad_settings_leave_no_folder(tiny, tmp_path, settings, told):
    with pytest.raises(ValueError, match=told) as caught:
        train("lm-stdlib", **{**tiny, **settings})
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


def test_another_text_is_not_trained_on_by_mistake(tiny, tmp_path):
    settings = {**tiny, "data.path": str(corpus(tmp_path / "mine")), "run.steps": 10}
    run = train("lm-stdlib", **settings)
    (run / "summary.json").unlink()
    (tmp_path / "mine" / "more.txt").write_text("alpha+ beta- " * 20)
    with pytest.raises(ValueError, match=r"started with another text .*--run.overwrite"):
        train("lm-stdlib", **settings)
    assert train("lm-stdlib", **settings, **{"run.overwrite": True}) == run


def test_spoilt_weights_are_refused(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    whole = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file") as caught:
        load_run(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_divergence_names_the_setting_of_this_task(tiny):
    with pytest.raises(ValueError, match=r"diverged at step \d+: .* a longer --optim.warmup_steps"):
        train("lm-stdlib", **{**tiny, "optim.lr": 1e30, "optim.clip": 0.0, "optim.warmup_steps": 0})


def test_bfloat16_trains(tiny):
    run = train("lm-stdlib", **{**tiny, "run.precision": "bfloat16", "run.steps": 4})
    assert load_file(run / "model.safetensors")["model.embedding.weight"].dtype == torch.float32


def test_openwebtext_is_the_papers():
    recipe = load_recipe("lm-openwebtext")
    paper = {
        "data.context": 1024, "run.batch_size": 480, "run.steps": 600_000, "optim.lr": 6e-4, "optim.warmup_steps": 2000,
        "optim.betas": [0.9, 0.95], "optim.clip": 1.0, "optim.weight_decay": 0.1, "model.preset": "base",
        "data.tokenizer": "gpt2", "optim.final_lr": 0.1,
    }  # fmt: skip
    assert {key: recipe.flat()[key] for key in paper} == paper
