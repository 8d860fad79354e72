"""Features learned by coding rate reduction: what a run leaves, what its figures are, what it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import TINY
from tost.rates import NearestSubspace, rate_reduction
from tost.training import load_recipe, load_run, train
from tost.training.build import build_images, build_model
from tost.training.outputs import outputs
from tost.training.reduction import FeatureLearner, load_subspaces

SETTINGS = {**TINY, "objective.features": 12, "objective.width": 2, "optim.ema": 0.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    settings = {**SETTINGS, "run.folder": str(tmp_path_factory.mktemp("runs"))}
    return train("vision-mcr2-digits", **settings), settings


def features_of(run, split):
    model, recipe = load_run(run)
    images = getattr(build_images(recipe), split)
    return [torch.cat(part) for part in zip(*outputs(model, images, recipe.data, 100, 0, torch.device("cpu")))]


def unit(features):
    return features / features.norm(dim=1, keepdim=True)


def test_the_summary_is_what_the_saved_weights_and_subspaces_give(finished):
    run, _ = finished
    summary = json.loads((run / "summary.json").read_text())
    fitted = NearestSubspace.fit(*features_of(run, "train"), 10, 2)
    torch.testing.assert_close(fitted.basis, load_subspaces(run).basis, rtol=1e-3, atol=1e-4)
    for entry, split in ((summary["test"], "test"), (summary["validation"], "validation")):
        features, labels = features_of(run, split)
        right = (load_subspaces(run)(features) == labels).float().mean()
        assert entry["accuracy"] == pytest.approx(float(right), abs=1e-6)
        groups = torch.nn.functional.one_hot(labels, 10).float()
        reduction = float(rate_reduction(unit(features), groups))
        assert entry["reduction"] == pytest.approx(reduction, rel=1e-4) and entry["loss"] == -entry["reduction"]


def test_the_model_learns_features(finished):
    run, _ = finished
    model, recipe = load_run(run)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 12)
    watched = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [line["validation_reduction"] for line in watched if "validation_reduction" in line]
    assert rates[-1] > rates[0] + 0.2
    fresh = build_model(recipe, build_images(recipe)).eval()
    pixels = build_images(recipe).train
    before = torch.cat([f for f, _ in outputs(fresh, pixels, recipe.data, 256, 0, torch.device("cpu"))])
    groups = torch.nn.functional.one_hot(pixels.labels, 10).float()
    assert rate_reduction(unit(features_of(run, "train")[0]), groups) > 2 * rate_reduction(unit(before), groups)


def test_a_finished_run_is_left_alone_and_another_objective_is_refused(finished):
    run, settings = finished
    assert train("vision-mcr2-digits", **settings) == run
    with pytest.raises(ValueError, match=r"objective\.eps was 0\.\d+, is 0\.9"):
        train("vision-mcr2-digits", **{**settings, "objective.eps": 0.9})


def test_the_loss_of_a_batch_is_its_reduction(tiny):
    recipe = load_recipe("vision-mcr2-digits", {**tiny, "augment.affine": 0.0, "optim.ema": 0.0})
    images = build_images(recipe)
    learner = FeatureLearner(build_model(recipe, images), recipe, 10)
    batch = {"pixels": images.train.pixels[:64], "labels": images.train.labels[:64]}
    groups = torch.nn.functional.one_hot(batch["labels"], 10).float()
    for mode in (True, False):
        out = learner.train(mode)(**batch)
        torch.testing.assert_close(out["loss"], -rate_reduction(unit(out["logits"]), groups, recipe.objective.eps))
    out["loss"].backward()
    assert all(p.grad is not None for name, p in learner.model.named_parameters())


def test_weights_of_a_classifier_start_it_with_a_fresh_head(tiny):
    classifier = train("vision-digits", **tiny, **{"run.steps": 1})
    recipe = load_recipe("vision-mcr2-digits", {**tiny, "model.weights": str(classifier)})
    model, source = build_model(recipe, build_images(recipe)), load_file(classifier / "model.safetensors")
    assert model.head.weight.shape == (recipe.objective.features, 16)
    assert all(torch.equal(t, source[name]) for name, t in model.state_dict().items() if not name.startswith("head."))


def test_bfloat16_trains_with_rates_in_float32(tiny):
    settings = {**tiny, "objective.width": 2, "run.precision": "bfloat16", "run.steps": 2}
    assert json.loads((train("vision-mcr2-digits", **settings) / "summary.json").read_text())["test"]["reduction"] > 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"augment.label_smoothing": 0.1}, "no label smoothing"),
        ({"objective.eps": 0.0}, "eps above 0"),
        ({"objective.features": 1}, "features of at least 2"),
        ({"objective.features": 16, "objective.width": 16}, "width is 1 to 15, below objective.features 16"),
        ({"objective.width": 0}, "got 0"),
        ({"objective.loss": "mse"}, "objective.loss.*cross-entropy.*mcr2"),
    ],
)
def test_bad_settings_leave_no_folder(tiny, tmp_path, settings, told):
    with pytest.raises(ValueError, match=told) as caught:
        train("vision-mcr2-digits", **{**tiny, **settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("spoil", ["missing", "cut"])
def test_spoilt_subspaces_are_refused(finished, tmp_path, spoil):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "subspaces.safetensors"
    path.unlink() if spoil == "missing" else path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"subspaces\.safetensors is missing or damaged"):
        load_subspaces(tmp_path / "run")
