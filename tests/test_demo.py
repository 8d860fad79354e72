"""The demo ends with a page, goes on where it was, and says where it stopped."""

from __future__ import annotations

import json

import pytest
import torch

from tost.bench.ops import Result
from tost.demo import demo, page, parts
from tost.demo.run import part

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small models gain nothing from a second thread, and wait for it where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo(out, bench=False, epochs=0.2)
    return out


def test_all_files_are_there(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "digits",
        "digits.csv",
        "digits.png",
        "photo.csv",
        "photo.png",
        "rates.csv",
        "rates.png",
        "report.html",
    }
    text = (folder / "report.html").read_text("utf-8")
    assert text.count("data:image/png") == 6  # three figures, light and dark
    assert "tost_nano_6_p1" in text and "<script" not in text


def test_accuracy_is_the_evaluation_of_the_run(folder, capsys):
    found = parts.accuracy(folder / "digits")
    assert found["images"] == 359 and 0 < found["accuracy"] < 1
    report = (folder / "report.html").read_text("utf-8")
    assert f"{found['right']} of those {found['images']} right" in report


def test_a_second_run_trains_nothing_and_says_the_same(folder, capsys):
    weights = folder / "digits" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    demo(folder, bench=False, epochs=0.2)
    told = capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    assert "[6/6]" in told and f"report   {(folder / 'report.html').resolve()}" in told
    assert told.rstrip().splitlines()[-4:] == ["next:", *(f"  {command}" for command in page.next_commands(folder))]


def test_another_recipe_in_the_folder_is_refused_by_the_training_part(folder, capsys):
    with pytest.raises(ValueError, match="epochs"):
        demo(folder, bench=False, epochs=0.3)
    assert "stopped in part 1, training" in capsys.readouterr().err


def test_a_failing_part_says_which(capsys):
    with pytest.raises(OSError, match="full"), part(3, "compression rate"):
        raise OSError("disk full")
    assert capsys.readouterr().err == "tost demo: stopped in part 3, compression rate\n"


def test_an_earlier_benchmark_is_reused_on_the_same_machine_only(tmp_path, monkeypatch):
    green = Result(quick=True)
    calls = []

    def measured(*_):
        calls.append(1)
        return Result(quick=True)

    monkeypatch.setattr("tost.bench.ops.measure_ops", measured)
    monkeypatch.setattr("tost.bench.ops.write_folder", lambda *_: None)
    (tmp_path / "ops.json").write_text(json.dumps(green.__dict__))
    parts.benchmark(tmp_path, quick=True)
    assert not calls
    parts.benchmark(tmp_path, quick=False)
    (tmp_path / "ops.json").write_text(
        json.dumps({**green.__dict__, "machine": {**green.machine, "versions": "other"}})
    )
    parts.benchmark(tmp_path, quick=True)
    assert len(calls) == 2


def test_a_red_gate_stops_the_demo(tmp_path, monkeypatch):
    red = Result(quick=True, checks=[{"green": False, "said": "y is off"}])
    monkeypatch.setattr("tost.bench.ops.measure_ops", lambda *_: red)
    with pytest.raises(ValueError, match="y is off"):
        parts.benchmark(tmp_path, quick=True)


def test_tiles_compare_the_largest_size_that_both_ran():
    shape = {"op": "full", "direction": "forward+backward", "B": 1, "H": 8, "D": 48}
    times = [{**shape, "contestant": "cpu", "N": n, "ms": n / 1000} for n in (1024, 4096)]
    times += [{**shape, "contestant": "published", "N": n, "ms": n / 100} for n in (1024, 4096)]
    times += [{**shape, "contestant": "softmax", "N": n, "ms": ms} for n, ms in ((4096, 122.88), (8192, None))]
    memory = [{**shape, "contestant": name, "N": 1024, "bytes": b} for name, b in (("cpu", 10), ("softmax", 210))]
    facts = page.bench_tiles({"times": times, "memory": memory})
    assert [value for value, _ in facts] == ["10x", "30x", "21x"]
    assert "4,096" in facts[0][1] and "1,024" in facts[2][1]
    few = [row for row in times if row["N"] == 1024]
    assert len(page.bench_tiles({"times": few, "memory": []})) == 0
