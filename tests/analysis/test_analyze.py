"""One command, a whole folder: every figure of a run of each kind, or one line that says what is wrong."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tost.analysis import analyze
from tost.analysis.command import default_folder
from tost.analysis.results import Analysis, Figure, Section, staging
from tost.analysis.style import Drawing
from tost.analysis.subject import open_subject
from tost.cli import main
from tost.rates import record_rates

SHARED = {"spectrum"}
WHITE = {"rates", "objective", "heads", "dilution", "incoherence", "coherence", "parameters"} | SHARED
PICTURES = {"clusters", "class_attention"}


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def vision(digits_run):
    return analyze(digits_run, samples=20, batch_size=8)


def test_a_vision_run_has_every_figure(vision, tmp_path):
    assert set(vision.figures) == WHITE | PICTURES | {"memberships_1", "memberships_2"}
    files = vision.write(tmp_path / "new" / "out")
    names = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert names == {path.name for path in files}
    for name in vision.figures:
        assert {f"{name}.png", f"{name}.svg", f"{name}.csv"} <= names
        assert rows(tmp_path / "new" / "out" / f"{name}.csv")
    assert {"report.html", "analysis.json", "final_parameters.csv"} <= names


def test_nothing_in_the_files_comes_from_outside(vision, tmp_path):
    vision.write(tmp_path)
    svg = (tmp_path / "rates.svg").read_text()
    assert "<text" in svg and "held-out" in svg  # letters, not outlines
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in (page, svg, (tmp_path / "memberships_1.svg").read_text()):
        links = re.findall(r"(?:src|srcset|href)=[\"']([^\"']{1,60})", text)
        assert all(link.startswith(("data:", "#")) for link in links), links[:5]
    assert "<script" not in page and "<link" not in page


def test_rates_are_those_of_the_recorder_over_all_batches(vision, digits_run):
    subject = open_subject(digits_run)
    record = record_rates(subject.model, next(subject.batches("held-out", 20, 20)))
    mine = [row for row in vision.tables["rates"] if row["set"] == "held-out"]
    for i, row in enumerate(mine):
        for stage in ("before", "mixed", "after"):
            assert row[f"{stage}_mean"] == pytest.approx(float(record.mean(stage)[i]), rel=1e-5)
            assert row[f"{stage}_sd"] == pytest.approx(float(record.spread(stage)[i]), rel=1e-3)
        assert row["exact_mean"] <= row["after_mean"] and row["samples"] == 20
    assert {row["tokens"] for row in vision.tables["spectrum"]} == {20 * 64}
    assert {row["tokens"] for row in vision.tables["heads"]} == {20 * 64}


def test_the_same_samples_every_time_and_no_sample_twice(digits_run):
    subject = open_subject(digits_run)
    assert subject.chosen("training", 50) == open_subject(digits_run).chosen("training", 50)
    assert len(set(subject.chosen("training", 50))) == 50
    everything = len(subject.sets["held-out"])
    assert subject.chosen("held-out", 10**6) == list(range(everything))


def test_batches_change_no_number(vision, digits_run):
    other = analyze(digits_run, samples=20, batch_size=20)
    for name in ("rates", "objective", "heads", "spectrum"):
        for a, b in zip(vision.tables[name], other.tables[name]):
            for key, value in a.items():
                assert b[key] == (pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value)


def test_more_tokens_dilute(vision):
    found = {(r["layer"], r["tokens"]): r["from_uniform"] for r in vision.tables["dilution"]}
    assert [n for layer, n in sorted(found) if layer == 1] == [64, 121, 256, 529, 1024]
    assert all(found[layer, 1024] < found[layer, 64] / 20 for layer in (1, 2))


def test_a_text_run_has_its_figures_and_its_tokens(text_run, tmp_path):
    found = analyze(text_run, samples=10)
    assert set(found.figures) == WHITE
    assert {row["last"] for row in found.tables["dilution"]} >= {16}
    found.write(tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "&lt;" in page and "<b>" not in page.partition("class='painted'")[2].partition("</div></div>")[0]
    assert page.count("type='radio'") == 2 and "<script" not in page
    shares = [row for row in rows(tmp_path / "tokens.csv") if (row["layer"], row["position"]) == ("block 1", "3")]
    assert sum(float(row["share"]) for row in shares) == pytest.approx(1, abs=1e-5)


def test_a_run_without_memberships_gives_what_it_has(softmax_run):
    found = analyze(softmax_run, samples=8)
    assert set(found.figures) == PICTURES | SHARED | {"parameters"}
    assert "SoftmaxAttention, has no memberships" in found.notes[0]


def test_a_run_without_parameters_says_why(digits_run, tmp_path):
    shutil.copytree(digits_run, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints", "parameters.csv"))
    found = analyze(tmp_path / "old", samples=4)
    assert "parameters" not in found.figures and "final_parameters" in found.tables
    assert any("no parameters.csv" in section.text for section in found.sections)


def test_the_command_writes_scores_and_removes_what_is_stale(digits_run, photos, tmp_path, capsys):
    out, images = tmp_path / "out", str(photos / "images")
    words = ["analyze", str(digits_run), "--samples", "6", "--out", str(out), "--images", images, "--size", "12"]
    assert main([*words, "--masks", str(photos / "masks"), "--ignore", "3"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (out / "scores.csv").exists() and (out / "masks.png").exists()
    (out / "mine.txt").write_text("keep")
    assert main(words) == 0
    assert not (out / "scores.csv").exists() and (out / "mine.txt").exists()
    assert set(json.loads((out / "analysis.json").read_text())["files"]) | {"mine.txt", "analysis.json"} == {
        path.name for path in out.iterdir()
    }


def test_the_default_folder_is_within_the_run(softmax_run, tmp_path):
    shutil.copytree(softmax_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert main(["analyze", str(tmp_path / "run"), "--samples", "3"]) == 0
    assert (tmp_path / "run" / "analysis" / "report.html").is_file()


def test_a_shipped_model_is_not_written_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_folder("flowers") == Path("runs/flowers-analysis")
    (tmp_path / "flowers").mkdir()
    assert default_folder("flowers") == Path("flowers/analysis")


def moved(run, folder, path="/nowhere/at/all"):
    """A copy of a run whose recipe reads images from a folder that is gone."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    config = (folder / "config.yaml").read_text()
    config = re.sub(r"source: digits\n  path: null", f"source: folder\n  path: {path}", config)
    (folder / "config.yaml").write_text(config)
    return folder


def test_photographs_stand_in_for_data_that_moved(digits_run, photos, tmp_path):
    run = moved(digits_run, tmp_path / "run")
    with pytest.raises(ValueError, match=r"no such folder.*--images"):
        analyze(run)
    found = analyze(run, images=photos / "images", samples=4)
    assert {row["set"] for row in found.tables["rates"]} == {"images"} and "not here" in found.notes[0]


def spoiled(run, folder, what):
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    if what == "NaN":
        tensors = load_file(folder / "model.safetensors")
        tensors["blocks.1.gamma1"][0] = torch.nan
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif what == "unfinished":
        (folder / "summary.json").unlink()
    elif what == "damaged":
        (folder / "model.safetensors").write_bytes(b"x" * 50)
    return str(folder)


@pytest.mark.parametrize(
    ("what", "more", "told"),
    [
        ("NaN", [], "1 parameters hold NaN or infinity, first blocks.1.gamma1"),
        ("unfinished", [], "is not finished"),
        ("damaged", [], "not a whole safetensors file"),
        ("", ["--samples", "0"], "--samples is a positive number"),
        ("", ["--length", "9"], "--length is for language models"),
        ("", ["--masks", "m"], "scores need --images DIR and --masks DIR"),
        ("", ["--images", "nowhere"], "--images nowhere: no such folder"),
        ("", ["--ignore", "x"], "--ignore: expected labels such as 3 or 0,255"),
        ("", ["--device", "abacus"], "--device abacus"),
        ("", ["--sample", "3"], "unknown option --sample"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(digits_run, tmp_path, capsys, what, more, told):
    run, out = spoiled(digits_run, tmp_path / "run", what), tmp_path / "a" / "out"
    assert main(["analyze", run, "--out", str(out), *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert told in error[-1] and error[-1].startswith("tost analyze: ")
    assert not (tmp_path / "a").exists()


def test_an_output_that_is_a_file_is_refused(digits_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["analyze", str(digits_run), "--out", str(tmp_path / "file")]) == 2
    assert "cannot write there" in capsys.readouterr().err


def test_images_of_a_text_run_and_a_baseline_of_text_are_refused(digits_run, text_run, photos):
    with pytest.raises(ValueError, match="is a language model; --images"):
        analyze(text_run, images=photos / "images")
    with pytest.raises(ValueError, match=r"--baseline .* is a language model"):
        analyze(digits_run, images=photos / "images", masks=photos / "masks", ignore=[3], baseline=text_run)
    with pytest.raises(ValueError, match="learned positions, got 99"):
        analyze(text_run, length=99)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_write_that_stops_leaves_the_folder_as_it_was(tmp_path, error):
    def fail(figure, theme):
        raise error

    good = Figure("good", Drawing(lambda figure, theme: figure.subplots().plot([1, 2]), (2, 2), "", [{"a": 1}]), "")
    bad = Figure("bad", Drawing(fail, (2, 2), "", [{"a": 1}]), "")

    def whole(*figures):
        return Analysis("t", "l", [], [Section("h", "x", list(figures))])

    whole(good).write(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(error):
        whole(good, bad).write(tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(error):
        whole(bad).write(tmp_path / "never" / "made")
    assert not (tmp_path / "never").exists()


def test_staging_replaces_only_its_own(tmp_path):
    (tmp_path / "analysis.json").write_text('{"files": ["../outside", "old.csv"]}')
    (tmp_path / "old.csv").write_text("")
    with staging(tmp_path) as folder:
        (folder / "new.csv").write_text("1")
    assert {path.name for path in tmp_path.iterdir()} == {"analysis.json", "new.csv"}
