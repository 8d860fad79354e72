"""The demo ends with a page, goes on where it was, and says where it stopped."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from tost.bench import command
from tost.bench.result import Result
from tost.bench.settings import Settings
from tost.demo import demo, language_page, language_parts, page, parts
from tost.demo.run import Options, part, run

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo(out, bench=False, language=False, epochs=0.2)
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
    demo(folder, bench=False, language=False, epochs=0.2)
    told = capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    assert "[5/5]" in told and f"report   {(folder / 'report.html').resolve()}" in told
    assert told.rstrip().splitlines()[-4:] == ["next:", *(f"  {c}" for c in page.next_commands(folder, False))]


def test_another_recipe_in_the_folder_is_refused_by_the_training_part(folder, capsys):
    with pytest.raises(ValueError, match="epochs"):
        demo(folder, bench=False, language=False, epochs=0.3)
    assert "stopped in part 1, training" in capsys.readouterr().err


def test_a_failing_part_says_which(capsys):
    with pytest.raises(OSError, match="full"), part(3, 5, "compression rate"):
        raise OSError("disk full")
    assert capsys.readouterr().err == "tost demo: stopped in part 3, compression rate\n"


def test_an_earlier_benchmark_is_reused_on_the_same_machine_only(tmp_path, monkeypatch):
    green = Result("scale", Settings(quick=True))
    calls = []

    def measured(*_):
        calls.append(1)
        return green

    monkeypatch.setattr(command, "run", measured)
    monkeypatch.setattr(command, "write_folder", lambda *_: None)
    (tmp_path / "scale.json").write_text(json.dumps(command.as_json(green)))
    parts.benchmark(tmp_path, quick=True)
    assert not calls
    parts.benchmark(tmp_path, quick=False)
    other = {**command.as_json(green), "machine": {**green.machine, "versions": "other"}}
    (tmp_path / "scale.json").write_text(json.dumps(other))
    parts.benchmark(tmp_path, quick=True)
    assert len(calls) == 2


def test_a_red_gate_stops_the_demo(tmp_path, monkeypatch):
    red = Result("scale", Settings(quick=True), checks=[{"green": False, "said": "y is off"}])
    monkeypatch.setattr(command, "run", lambda *_: red)
    with pytest.raises(ValueError, match="y is off"):
        parts.benchmark(tmp_path, quick=True)


def test_tiles_compare_the_largest_size_that_both_ran():
    time = {"what": "time", "op": "full", "direction": "forward+backward", "B": 1, "H": 8, "D": 48}
    records = [{**time, "contestant": "cpu", "N": n, "ms": n / 1000} for n in (1024, 4096)]
    records += [{**time, "contestant": "published", "N": n, "ms": n / 100} for n in (1024, 4096)]
    records += [{**time, "contestant": "softmax", "N": n, "ms": ms} for n, ms in ((4096, 122.88), (8192, None))]
    peak = {**time, "what": "peak", "N": 1024}
    peaks = [{**peak, "contestant": name, "bytes": b} for name, b in (("cpu", 10), ("softmax", 210))]
    layers = {"what": "layers", "contestant": "tost", "N": 8, "ms": 1.0}
    facts = page.bench_tiles({"records": [*records, *peaks, layers]})
    assert [value for value, _ in facts] == ["10x", "30x", "21x"]
    assert "4,096" in facts[0][1] and "1,024" in facts[2][1]
    assert len(page.bench_tiles({"records": [r for r in records if r["N"] == 1024]})) == 0


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Settings of the language recipe that take seconds: a text of a small grammar, a small model, few steps."""
    folder, chance = tmp_path_factory.mktemp("text"), random.Random(0)
    for i in range(40):
        names = [chance.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(40)]
        (folder / f"{i}.py").write_text("".join(f"def {name}(x):\n    return x + {len(name)}\n" for name in names))
    return {
        "data.source": "files",
        "data.path": str(folder),
        "data.tokenizer": "bytes",
        "data.context": 32,
        "data.validation": 0.1,
        "data.test": 0.1,
        "model.options": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "layer_scale_init": 1.0},
        "optim.warmup_steps": 5,
        "run.steps": 30,
        "run.checkpoint_steps": 30,
    }


@pytest.fixture(scope="module")
def both(folder, text):
    """The whole demo, in the folder of its vision half."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_parts, "CONTEXTS", (32, 256, 1024))
        return run(Options(folder, bench=False, epochs=0.2, text=text))


def test_the_language_half_has_its_files_and_its_sections(both, folder):
    names = {path.name for path in folder.iterdir()}
    assert names >= {"language", "language-softmax", "bits.json", "growth.json", "growth.png", "growth.csv"}
    page_text = (folder / "report.html").read_text("utf-8")
    assert page_text.count("data:image/png") == 8 and "<script" not in page_text
    for told in ("Writing code", "What a long context costs", "gzip -9", "tost generate", "bits for a byte"):
        assert told in page_text


def test_the_counterpart_is_gpt2_of_the_same_size(both, folder):
    from transformers import AutoConfig

    ours, theirs = (AutoConfig.from_pretrained(folder / name) for name in ("language", "language-softmax"))
    for size in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        assert getattr(ours, size) == getattr(theirs, size)
    assert set(theirs.mixers) == {"softmax"} and theirs.tables and theirs.conv_width == 0
    assert set(ours.mixers) == {"tssa"} and ours.group_means


def test_bits_are_those_of_the_evaluation_and_of_gzip(both, folder, text):
    from tost.data.text import held_out_text
    from tost.evaluation import evaluate
    from tost.training import load_recipe
    from tost.training.language import text_options

    found = both["bits"]
    assert found["models"]["tost"]["bits"] == pytest.approx(evaluate(folder / "language")["bits_per_byte"])
    _, held = held_out_text(text_options(load_recipe(str(folder / "language" / "config.yaml"))))
    bits = {one["name"]: one["bits"] for one in found["compressors"]}
    assert found["bytes"] == len(held.encode())
    assert bits["gzip -9"] == pytest.approx(8 * len(gzip.compress(held.encode(), 9)) / len(held.encode()))
    assert 0 < bits["xz -9 that has seen the training text"] < bits["xz -9"]


def test_the_state_is_flat_and_the_cache_is_not(both):
    size = {(r["contestant"], r["context"]): r["state_bytes"] for r in both["growth"]}
    assert size["tost", 32] == size["tost", 1024] and size["softmax", 1024] > 20 * size["softmax", 32]
    factor, _ = language_page.tiles(both)[1]
    assert float(factor[:-1].replace(",", "")) == pytest.approx(size["softmax", 1024] / size["tost", 1024], abs=0.5)


def test_the_sample_goes_on_from_the_prompt(both):
    assert both["sample"].startswith("def ") and len(both["sample"]) > len("def ")


def test_a_second_run_trains_and_measures_nothing_of_the_language_half(both, folder, text, monkeypatch):
    weights = [folder / name / "model.safetensors" for name in ("language", "language-softmax")]
    before = [path.stat().st_mtime_ns for path in weights]
    monkeypatch.setattr(language_parts, "CONTEXTS", (32, 256, 1024))
    for name in ("_model_bits", "_compressor_bits"):
        monkeypatch.setattr(language_parts, name, lambda *_: pytest.fail("measured again"))
    again = run(Options(folder, bench=False, epochs=0.2, text=text))
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert again["growth"] == both["growth"] and again["bits"] == both["bits"]


def test_what_was_kept_is_used_for_the_same_key_only(tmp_path):
    path, asked = tmp_path / "kept.json", iter(range(9))
    measure = lambda: next(asked)  # noqa: E731
    assert [language_parts.reuse(path, key, measure) for key in ({"a": (1,)}, {"a": [1]}, {"a": 2}, {"a": [1]})] == [
        0,
        0,
        1,
        2,
    ]
