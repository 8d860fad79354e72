"""The frame and every group on tiny sizes, end to end."""

from __future__ import annotations

import csv
import json

import pytest

from tost.bench import command, contestants, layers, measure
from tost.bench.contestants import CONTESTANTS, Contestant
from tost.bench.gate import Check
from tost.bench.groups import decode, drift, memory, models, ops, scale, sequences, train
from tost.bench.language_models import Size
from tost.bench.record import marker
from tost.bench.settings import Settings
from tost.cli import main
from tost.ops import tssa

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")
SIZE = Size(32, 2, 2, 96)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, no_compiler, no_child):
    """Sizes that take a second or two a group."""
    monkeypatch.setattr(measure, "SAMPLE_S", 1e-5)
    monkeypatch.setitem(ops.SHAPES, ("cpu", True), ((2, 40, 3, 8),))
    monkeypatch.setattr(ops, "LONG", 40)
    monkeypatch.setitem(scale.COUNTS, True, (16, 32))
    monkeypatch.setattr(scale, "ARTICLE", 32)
    monkeypatch.setitem(scale.LAYER_COUNTS, True, (16, 32))
    monkeypatch.setattr(layers, "DEPTH", 2)
    monkeypatch.setitem(memory.COUNT, True, 64)
    monkeypatch.setattr(memory, "CHECKED", 48)
    monkeypatch.setitem(memory.TEXTS, True, ((64, 0), (64, 16), (128, 16)))
    monkeypatch.setattr(models, "make_plan", lambda *_: models.Plan(
        "tost_tiny_12_p16", 1, 32, SIZE, 24, (16, 32), 2, 9.0, 9.0))  # fmt: skip
    monkeypatch.setattr(decode, "make_plan", lambda *_: decode.Plan("tiny", SIZE, (24, 48), 2, 9.0))
    monkeypatch.setattr(sequences, "make_plan", lambda *_: sequences.Plan((40, 80), (40,), (1, 30, 70), 9.0))
    monkeypatch.setattr(drift, "make_plan", lambda *_: drift.Plan(5000, (64, 256), drift.streams.QUICK, 2, 2, 2, 300))
    monkeypatch.setattr(train, "make_plan", lambda *_: train.Plan("tiny", SIZE, 24, "tost_tiny_12_p16", 2, 32, 2, 9.0))


@pytest.fixture()
def checkout(tmp_path, monkeypatch):
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("\n".join(f"{marker(group, 'cpu')}\nnothing\n<!-- end -->\n" for group in command.GROUPS))
    monkeypatch.chdir(tmp_path)
    return page


EXPECTED = {  # words of the report, and what its tables hold
    "ops": (["**causal, forward+backward**", "share of copy_'s bandwidth", "**medians**", "SDPA chose: flash (CPU)"],
            {"time", "kernel"}),
    "scale": (["**the paper's comparison**", "| the article on unfused softmax | 12x | 21x |", "| exponent |",
               "full, forward: fused softmax attention is"], {"time", "kernel", "layers", "layers_peak", "peak"}),
    "memory": (["**kept for the backward pass**", "| chunks of 16 |", "| tost, one state | 12.1 | 12.1 | 12.1 |"],
               {"operator", "block", "step", "saved", "text", "state"}),
    "models": (["**vision model, forward pass**", "| all products |", "with logits of all tokens", "softmax block is"],
               {"vision", "language", "shares", "block"}),
    "decode": (["**decoding** (tiny: 2 layers", "GPT-2, cache allocated beforehand", "**the operator's step**"],
               {"decode", "operator"}),
    "drift": (["| a plain float32 state, one token at a time |", "| cpu, one call |", "| forgetting, half-life",
               "every 64 tokens or so: nats a token above", "|  | to 64 | to 256 | to 300 |", "| no mixing between"],
              {"drift", "dilution", "streams"}),
    "sequences": (["**one sequence, forward+backward**", "At 80 tokens fused softmax attention takes",
                   "1, 30, 70 tokens", "| packed, padding-free (cu_seqlens) | 101 |",
                   "| padded to the longest | 210 |"],
                  {"time", "peak", "ragged"}),
    "train": (["**training step**, language model (tiny), 1 x 24 tokens", "GPT-2, fused", "where its time goes"],
              {"train", "shares"}),
}  # fmt: skip


@pytest.mark.parametrize("group", command.GROUPS)
def test_a_green_group_reports_writes_and_records(group, checkout, tmp_path, capsys):
    before = checkout.read_text()
    arguments = ["bench", group, "--quick", "--rounds", "2", "--json", str(tmp_path / "all.json"), "--record"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    words, tables = EXPECTED[group]
    for text in [f"`tost bench {group} --quick --rounds 2`", "- processor: ", "Gate: green", *words]:
        assert text in told.out, text
    found = json.loads((tmp_path / "all.json").read_text())
    assert {r["what"] for r in found["records"]} == tables
    assert all(check["green"] for check in found["checks"]) and found["command"].startswith("tost bench")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{group}.json", f"{group}.csv", f"{group}.md"} <= files
    assert ("scale-forward.svg" in files and "scale-forward+backward.png" in files) == (group == "scale")
    with (tmp_path / "out" / f"{group}.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found["records"])
    after = checkout.read_text()
    assert after == before.replace(f"{marker(group, 'cpu')}\nnothing\n", f"{marker(group, 'cpu')}\n\n{told.out}\n")


def test_times_are_there_and_positive(tmp_path, capsys):
    result = command.run("ops", Settings(quick=True, rounds=2))
    rows = result.of("time", op="full", direction="forward")
    assert {r["contestant"] for r in rows} == {n for n in CONTESTANTS if n not in result.absent}
    assert all(r["ms"] > 0 and r["speed_up"] > 0 for r in rows)
    copies = [r for r in rows if r["contestant"] == "copy"]
    assert all(r["of_copy"] == pytest.approx(1) and r["gb_per_s"] == pytest.approx(r["copy_gb_per_s"]) for r in copies)


def spoilt(case):
    return lambda w, t: 1.01 * tssa(w, t)


@pytest.mark.parametrize("group", ["ops", "scale", "memory"])
def test_a_red_gate_prints_and_records_nothing(group, checkout, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "cpu", Contestant("spoilt", "ours", spoilt))
    before = checkout.read_text()
    assert main(["bench", group, "--quick", "--record", "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and f"bench {group}: wrong results, so no times:" in told.err and "cpu full" in told.err
    assert checkout.read_text() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{group}.json"]
    assert json.loads((tmp_path / "out" / f"{group}.json").read_text())["records"] == []


@pytest.mark.parametrize("group", ["models", "decode", "train"])
def test_a_red_gate_of_the_models_prints_nothing(group, capsys, monkeypatch):
    module = command.load(group)
    monkeypatch.setattr(module, "check_models", lambda *_: [Check("logits", 1.0, 1e-5), Check("x", 0, 1)])
    assert main(["bench", group, "--quick", "--rounds", "2"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and "logits: off by 1.0e+00" in told.err


def test_recording_outside_of_a_checkout_fails_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("measured"))
    assert main(["bench", "ops", "--quick", "--record"]) == 2
    assert "inside a checkout" in capsys.readouterr().err


def test_half_precision_runs_through(tmp_path, capsys):
    assert main(["bench", "ops", "--quick", "--rounds", "2", "--dtype", "bfloat16"]) == 0
    assert "`tost bench ops --quick --dtype bfloat16 --rounds 2`" in capsys.readouterr().out


def test_interrupting_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(result):
        raise KeyboardInterrupt

    monkeypatch.setattr(ops, "measure", interrupted)
    assert main(["bench", "ops", "--out", str(tmp_path / "out")]) == 130
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_where_softmax_is_ahead_is_said():
    flat, square = [(n, 10.0) for n in (256, 1024, 4096)], [(n, n / 100.0) for n in (256, 1024, 4096)]
    assert "ahead up to about 1,000 tokens; at 4,096 tokens it takes 4.10x" in scale.verdict(flat, square)
    assert "not ahead at any length measured, from 256" in scale.verdict(flat, [(n, 2 * t) for n, t in flat])
    assert "ahead at every length measured" in scale.verdict(square, [(n, t / 2) for n, t in square])
    assert "was not measured" in scale.verdict(flat, [])


def test_plans_cover_what_they_promise(monkeypatch):
    monkeypatch.undo()
    assert max(scale.COUNTS[False]) == 2**20 and scale.ARTICLE in scale.COUNTS[True]
    assert 10240 in scale.LAYER_COUNTS[False] and (2, 8192, 12, 64) in ops.SHAPES["cpu", False]
    assert {(case.op, case.train) for case in ops.cases_of(Settings(quick=True))} == {
        (op, both) for op in contestants.OPS for both in (False, True)
    }
    full = models.make_plan(False, "cpu")
    assert (full.pixels, full.text, full.counts[-1]) == (1024, 4096, 16384)
    assert decode.make_plan(False).contexts == (512, 2048, 8192, 32768)
    assert train.make_plan(False, "cuda").text == 4096 and train.make_plan(False, "cpu").text == 1024
    assert (1048576, 4096) in memory.TEXTS[False]
