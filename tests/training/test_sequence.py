"""A run on sequences learns, says what `evaluate` says, goes on in the same bits, and refuses what doesn't fit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from tost.data import sources
from tost.data.sequences import IGNORE, collate
from tost.evaluation import evaluate
from tost.evaluation.command import sentence
from tost.training import load_recipe, load_run, train
from tost.training.command import chosen_variants
from tost.training.parsing import with_flags
from tost.training.sequence import Learner, SequenceTask, packs, row_scores
from tost.training.settings import find_recipe, recipe_parser, variants

TINY = {
    "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2, "model.mlp_dim": 16, "model.drop": 0.0,
    "data.source": "toy", "data.name": "single", "optim.lr": 1e-2, "optim.warmup_steps": 2,
    "run.batch_size": 16, "run.steps": 40, "run.checkpoint_steps": 10,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def toy():
    sources.SOURCES["toy"] = ("tests.training.toys", "load")
    yield
    del sources.SOURCES["toy"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train("lra-listops", **{**TINY, "run.folder": str(tmp_path_factory.mktemp("runs"))})


def test_it_learns_and_evaluate_says_the_same(finished):
    summary = json.loads((finished / "summary.json").read_text())
    found = evaluate(finished)
    assert summary["test"]["accuracy"] == pytest.approx(found["accuracy"], abs=1e-12)
    assert summary["test"]["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert found["accuracy"] > 0.85 > found["majority"] + 0.3 and found["sequences"] == found["counted"] == 33
    assert f"{found['accuracy']:.2%}" in sentence(found) and "the most frequent one" in sentence(found)
    losses = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    watched = [line["validation_loss"] for line in losses if "validation_loss" in line]
    assert len(watched) == 4 and watched[-1] < 0.7 * watched[0]


@pytest.mark.parametrize("name", ["pair", "tokens"])
@pytest.mark.parametrize("mixer", ["tssa", "cbsa"])
def test_pairs_and_tokens(tmp_path, name, mixer):
    settings = {**TINY, "data.name": name, "model.mixer": mixer, "run.folder": str(tmp_path), "run.batch_size": 8}
    run = train("lra-text", **settings)
    found, model = evaluate(run), load_run(run)[0]
    assert model.config.pair == (name == "pair") and model.config.per_token == (name == "tokens")
    assert packs(model) == (mixer == "tssa")
    if name == "tokens":  # 0 or not: the embedding tells
        assert found["accuracy"] > 0.95 and found["counted"] > 100


def test_a_causal_run_streams(tmp_path):
    settings = {**TINY, "model.causal": True, "model.decay": 0.95, "run.folder": str(tmp_path)}
    model = load_run(train("lra-listops", **settings))[0]
    x = torch.tensor([[1, 1, 0, 1, 2, 1]])
    assert_close(model.stream(x)[0][:, -1], model(x), rtol=1e-4, atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path):
    stopped = tmp_path / finished.name
    shutil.copytree(finished, stopped)
    for left in ("summary.json", "model.safetensors", "config.json"):
        (stopped / left).unlink()
    shutil.rmtree(max((stopped / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2])))
    again = train("lra-listops", **{**TINY, "run.folder": str(tmp_path)})
    assert again == stopped and json.loads((again / "summary.json").read_text())["resumed"]
    one, other = load_file(finished / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_begin_another_run_with_a_new_head(finished, tmp_path):
    recipe = load_recipe("lra-listops", {**TINY, "model.weights": str(finished), "data.name": "tokens"})
    model = SequenceTask(recipe, tmp_path).model
    before = load_file(finished / "model.safetensors")
    assert torch.equal(model.embed.weight, before["embed.weight"]) and model.head.out_features == 2


def test_scores_count_every_judged_label_once():
    logits = torch.randn(2, 3, 4)
    labels = torch.tensor([[1, 2, IGNORE], [3, IGNORE, IGNORE]])
    got = row_scores(logits, labels)
    kept = [(0, 0, 1), (0, 1, 2), (1, 0, 3)]
    nats = [-torch.log_softmax(logits[b, n].double(), 0)[k] for b, n, k in kept]
    assert got[:, 1].tolist() == [2, 1]
    assert_close(got[:, 2], torch.stack([nats[0] + nats[1], nats[2]]), rtol=1e-5, atol=1e-6)
    assert got[:, 0].tolist() == [
        sum(int(logits[b, n].argmax()) == k for b, n, k in kept if b == row) for row in (0, 1)
    ]


@pytest.mark.parametrize("name", ["single", "pair", "tokens"])
def test_packed_and_padded_batches_cost_the_same(name):
    recipe = load_recipe("lra-listops", {**TINY, "data.name": name})
    task = SequenceTask(recipe, None)
    items = [task.test[i] for i in range(7)]
    learner = Learner(task.model).double().eval()
    one, other = learner(**collate(items)), learner(**collate(items, pack=False))
    assert_close(one["loss"], other["loss"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "inverse_sqrt", "constant", "cosine"])
def test_schedules_are_transformers(tmp_path, name):
    run = train("lra-listops", **{**TINY, "optim.schedule": name, "run.steps": 20, "run.folder": str(tmp_path)})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line["learning_rate"] for line in lines if "learning_rate" in line][-1]
    at = 19  # steps done before the last update
    want = {"linear": 1 - 17 / 18, "inverse_sqrt": (2 / at) ** 0.5, "constant": 1.0, "cosine": 0.0076}[name]
    assert last == pytest.approx(1e-2 * want, rel=0.02)


def test_a_variant_replaces_settings_and_names_the_run():
    whole, quick = load_recipe("lra-listops"), load_recipe("lra-listops", {"quick": True})
    assert (whole.model.dim, whole.run.steps, whole.optim.schedule) == (512, 90000, "inverse_sqrt")
    assert quick.model.dim < 512 and quick.run.steps < 5000 and quick.run.name == "lra-listops-quick"
    assert load_recipe("lra-listops", {"quick": True, "run.steps": 7}).run.steps == 7
    name, rest = chosen_variants("lra-listops", ["--run.seed", "3", "--quick"])
    assert name == "lra-listops-quick" and rest[0].startswith("--config=") and rest[-2:] == ["--run.seed", "3"]
    parsed = recipe_parser(find_recipe("lra-listops")).parse_args(rest)
    assert (parsed.model.dim, parsed.run.seed, parsed.data.source) == (quick.model.dim, 3, "listops")
    with pytest.raises(ValueError, match="vision-digits has no --quick; there are"):
        chosen_variants("vision-digits", ["--quick"])


@pytest.mark.parametrize("name", ["image", "listops", "pathfinder", "pathx", "retrieval", "text"])
def test_the_shared_configuration_is_one(name):
    assert "shared" in variants(f"lra-{name}")
    recipe, other = load_recipe(f"lra-{name}", {"shared": True}), load_recipe("lra-listops", {"shared": True})
    assert recipe.model == other.model and recipe.optim == other.optim
    assert recipe.run.steps == other.run.steps and recipe.data.source == load_recipe(f"lra-{name}").data.source


def test_a_section_may_be_left_out_where_one_has_the_setting():
    parser = recipe_parser(find_recipe("lra-listops"))
    assert with_flags(parser, ["--mixer", "none", "--norm-first", "--name", "x"]) == [
        "--model.mixer", "none", "--model.norm_first", "true", "--name", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.source": "listop"}, "unknown source of sequences 'listop'"),
        ({"run.batch_size": 1000}, "run.batch_size 1000 is more than the 96 training sequences"),
        ({"model.mixer": "tsa"}, "unknown mixer 'tsa'"),
        ({"optim.schedule": "step"}, "optim.schedule.*inverse_sqrt.*step"),
        ({"model.num_heads": 3}, "choose a dim that num_heads divides"),
    ],
)
def test_refusals(tmp_path, changes, told):
    with pytest.raises(ValueError, match=told) as caught:
        train("lra-listops", **{**TINY, "run.folder": str(tmp_path), **changes})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
