"""What a run leaves, what it refuses, and how it is read back."""

import csv
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.training.conftest import TINY
from tost.training import load_recipe, load_run, train
from tost.training.build import build_images, build_model
from tost.training.callbacks import append
from tost.training.checkpoints import writing
from tost.training.engine import RunTrainer
from tost.training.vision import Classifier


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    settings = {**TINY, "run.folder": str(folder), "optim.ema": 0.9}
    return train("vision-digits", **settings), settings


def test_a_run_holds_what_it_promises(finished):
    run, _ = finished
    names = {"model.safetensors", "config.json", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints"}
    names |= {"parameters.csv"}
    assert names <= {p.name for p in run.iterdir()}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["split"] == "test" and summary["test"]["images"] == 359 and summary["steps"] == 20
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_accuracy" in line] == [3, 6, 9, 12, 15, 18, 20]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines if "loss" in line)
    assert not list(run.rglob("*.bin")), "a pickle that nobody reads was left"


def test_parameters_are_followed_from_the_first_step_to_the_last(finished):
    run, _ = finished
    with open(run / "parameters.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted({int(row["step"]) for row in rows}) == list(range(21))
    checkpoint = load_file(run / "checkpoints" / "checkpoint-20" / "model.safetensors")
    last = {(row["parameter"], row["index"]): float(row["value"]) for row in rows if row["step"] == "20"}
    first = [float(row["value"]) for row in rows if row["step"] == "0"]
    assert set(first) == {1.0}, "temperature and LayerScale begin at 1"
    kept = {name.removeprefix("model."): value for name, value in checkpoint.items() if name.startswith("model.")}
    temperatures = {name for name in kept if name.endswith(".temperature")}
    assert temperatures
    for name in temperatures:
        assert [last[name, str(h)] for h in range(len(kept[name]))] == pytest.approx(kept[name].tolist(), rel=1e-5)
    gammas = {name for name in kept if name.endswith((".gamma1", ".gamma2"))}
    assert {(name, "") for name in gammas} == {key for key in last if not key[1]}
    for name in gammas:
        assert last[name, ""] == pytest.approx(float(kept[name].abs().mean()), rel=1e-5)


def test_saved_weights_are_the_average_and_score_what_the_summary_says(finished):
    run, _ = finished
    checkpoint = load_file(run / "checkpoints" / "checkpoint-20" / "model.safetensors")
    saved = load_file(run / "model.safetensors")
    assert all(torch.equal(saved[name], checkpoint[f"average.module.{name}"]) for name in saved)
    assert not torch.equal(saved["head.weight"], checkpoint["model.head.weight"])
    model, recipe = load_run(run)
    assert recipe.run.epochs == 2 and not model.training


def test_a_finished_run_is_left_alone(finished):
    run, settings = finished
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert train("vision-digits", **settings) == run
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_another_recipe_is_refused_naming_the_difference(finished):
    _, settings = finished
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.002, is 0\.5") as caught:
        train("vision-digits", **{**settings, "optim.lr": 0.5})
    assert "--run.overwrite" in str(caught.value)


def test_overwrite_starts_over(finished, tmp_path):
    run, settings = finished
    shutil.copytree(run, tmp_path / "copy")
    changed = {**settings, "run.folder": str(tmp_path), "run.name": "copy", "run.steps": 1, "run.overwrite": True}
    again = train("vision-digits", **changed)
    assert json.loads((again / "summary.json").read_text())["steps"] == 1
    assert load_recipe(again / "config.yaml").run.overwrite is False


def test_a_foreign_folder_is_not_touched(tiny, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds files that are no run"):
            train("vision-digits", **tiny, **{"run.name": "mine", "run.overwrite": overwrite})
    assert (tmp_path / "runs" / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"run.name": "../up"}, "name of a folder"),
        ({"run.batch_size": 5000}, "more than the 1295 training images"),
        ({"run.batch_size": 7, "run.accumulate": 2}, "choose a multiple of 2"),
        ({"model.name": "tost_nan"}, "unknown model"),
        ({"model.options": {"dims": 3}}, "has no option dims"),
        ({"data.validation": 1.5}, "data.validation"),
        ({"data.mean": [0.1, 0.2]}, "data.mean"),
        ({"augment.random_crop": [0.9, 0.1]}, "random_crop"),
        ({"model.weights": "absent.safetensors"}, "absent.safetensors"),
    ],
)
def test_bad_settings_leave_no_folder(tiny, tmp_path, settings, told):
    with pytest.raises((ValueError, OSError), match=told) as caught:
        train("vision-digits", **{**tiny, **settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_divergence_says_where_and_what_to_do(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"diverged at step \d+: .* lower --optim\.lr \(now 1e\+30\)"):
        train(
            "vision-digits", **{**tiny, "optim.lr": 1e30, "optim.clip": 0.0, "optim.warmup_epochs": 0, "run.epochs": 10}
        )
    checkpoints = tmp_path / "runs" / "vision-digits" / "checkpoints"
    for checkpoint in checkpoints.iterdir():
        assert all(torch.isfinite(t).all() for t in load_file(checkpoint / "model.safetensors").values())


def unfinished(run):
    (run / "summary.json").unlink()


def no_config(run):
    (run / "config.yaml").unlink()


def cut_weights(run):
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def pickled_weights(run):
    (run / "model.safetensors").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def other_pickle(run):
    (run / "model.safetensors").rename(run / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (unfinished, "not finished"),
        (no_config, "is not a run"),
        (cut_weights, "not a whole safetensors file"),
        (pickled_weights, "not a whole safetensors file"),
        (other_pickle, "holds a pickle"),
    ],
)
def test_spoilt_runs_are_refused(finished, tmp_path, spoil, told):
    shutil.copytree(finished[0], tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(ValueError, match=told) as caught:
        load_run(tmp_path / "run")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_resuming_reads_no_pickled_code(finished, tmp_path):
    """A checkpoint whose optimiser file would run code is refused, and the code does not run."""
    run, settings = finished
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-20")

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state": Bomb()}, tmp_path / "run" / "checkpoints" / "checkpoint-18" / "optimizer.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        train("vision-digits", **{**settings, "run.folder": str(tmp_path), "run.name": "run"})
    assert not (tmp_path / "ran").exists()


def test_weights_start_a_run_with_a_fresh_head_where_classes_differ(finished, tmp_path):
    run, settings = finished
    recipe = load_recipe("vision-digits", {**settings, "model.weights": str(run)})
    images = build_images(recipe)
    model, source = build_model(recipe, images), load_file(run / "model.safetensors")
    assert all(torch.equal(t, source[name]) for name, t in model.state_dict().items())
    images.classes.append("ten")
    wider = build_model(recipe, images)
    assert wider.head.weight.shape == (11, 16)
    assert torch.equal(wider.blocks[0].mlp.fc1.weight, source["blocks.0.mlp.fc1.weight"])


def test_the_average_follows_the_weights(tiny):
    recipe = load_recipe("vision-digits", {**tiny, "optim.ema": 0.5})
    images = build_images(recipe)
    classifier = Classifier(build_model(recipe, images), recipe, 10)
    first = classifier.model.head.weight.detach().clone()
    classifier.update_average()  # the first update copies
    with torch.no_grad():
        classifier.model.head.weight += 1
    classifier.update_average()
    share = min(0.5, 2 / 11)
    torch.testing.assert_close(classifier.best.head.weight, first * share + (first + 1) * (1 - share))


def test_label_smoothing_and_evaluation_loss(tiny):
    recipe = load_recipe(
        "vision-digits", {**tiny, "augment.affine": 0.0, "augment.label_smoothing": 0.2, "optim.ema": 0.0}
    )
    images = build_images(recipe)
    classifier = Classifier(build_model(recipe, images), recipe, 10)
    batch = {"pixels": images.train.pixels[:32], "labels": images.train.labels[:32]}
    out = classifier.train()(**batch)
    log_p = out["logits"].log_softmax(-1)
    target = torch.nn.functional.one_hot(batch["labels"], 10) * 0.8 + 0.02
    torch.testing.assert_close(out["loss"], -(target * log_p).sum(-1).mean())
    out = classifier.eval()(**batch)
    torch.testing.assert_close(out["loss"], torch.nn.functional.cross_entropy(out["logits"], batch["labels"]))


def test_gradient_checkpointing_and_accumulation_change_no_step(tiny, tmp_path):
    plain = train("vision-digits", **tiny, **{"run.name": "plain", "run.steps": 3})
    spare = train("vision-digits", **tiny, **{"run.name": "spare", "run.steps": 3, "run.gradient_checkpointing": True})
    a, b = (load_file(run / "model.safetensors") for run in (plain, spare))
    for name in a:
        if "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(a[name], b[name])


def test_bfloat16_trains(tiny):
    run = train("vision-digits", **tiny, **{"run.precision": "bfloat16", "run.steps": 4})
    assert load_file(run / "model.safetensors")["head.weight"].dtype == torch.float32


def test_write_errors_of_libraries_become_one_line():
    with pytest.raises(OSError, match=r"cannot write it: the disk did not take the whole file"), writing("it"):
        raise RuntimeError(
            "[enforce fail at inline_container.cc:595] . PytorchStreamWriter failed writing file: file write failed"
        )
    with pytest.raises(RuntimeError, match="shape"), writing("it"):
        raise RuntimeError("shape mismatch")


def test_files_decoded_by_workers_resume_in_the_same_bits(tmp_path, monkeypatch):
    """An image folder, random crops and worker processes: stopped in the middle of the second epoch."""
    generator = np.random.default_rng(0)
    for split, name, count in (("train", "a", 16), ("train", "b", 16), ("val", "a", 2), ("val", "b", 2)):
        (tmp_path / "images" / split / name).mkdir(parents=True)
        for i in range(count):
            noise = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "images" / split / name / f"{i}.png")
    settings = {
        **TINY, "data.path": str(tmp_path / "images"), "data.image_size": 8, "data.validation": 0.0, "data.workers": 2,
        "augment.random_crop": [0.2, 0.9], "run.batch_size": 8, "run.accumulate": 1, "run.epochs": 3,
        "run.checkpoint_epochs": 0.5, "run.folder": str(tmp_path / "runs"),
    }  # fmt: skip
    whole = train("vision-finetune", **settings, **{"run.name": "whole"})
    step = RunTrainer.training_step

    def stops(self, *arguments, **named):
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    monkeypatch.setattr(RunTrainer, "training_step", stops)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        train("vision-finetune", **settings, **{"run.name": "stopped"})
    monkeypatch.undo()
    assert {p.name for p in (tmp_path / "runs" / "stopped" / "checkpoints").iterdir()} == {
        "checkpoint-4",
        "checkpoint-6",
    }
    stopped = train("vision-finetune", **settings, **{"run.name": "stopped"})
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["test"]["split"] == "val" and "validation" not in summary


def test_a_failed_line_leaves_the_metrics_whole(tmp_path):
    resource = pytest.importorskip("resource")
    append(tmp_path / "metrics.jsonl", b'{"step": 1}\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError):
            append(tmp_path / "metrics.jsonl", b'{"step": 2, "loss": 1.0}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'
