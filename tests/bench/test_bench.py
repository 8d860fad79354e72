"""The benchmark measures what it says, and is silent about speed when a value is wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close

from tost.bench import contestants, gate, memory, ops, published
from tost.bench.contestants import CONTESTANTS, Case, Entry, make_inputs
from tost.bench.decode import decode_records
from tost.bench.files import write_json
from tost.bench.machine import machine
from tost.bench.measure import paired, ratio
from tost.bench.plan import Plan, make_plan
from tost.bench.tables import number, report, time_cell
from tost.ops import causal_tssa, tssa

SMALL = Case("full", True, 2, 37, 3, 5)
OPS = ["full", "causal"]


def small_plan(**changes) -> Plan:
    plan = Plan((16, 32, 64), (), 2, 60.0, (), (), 60.0, 600.0, 600.0)
    for name, value in changes.items():
        setattr(plan, name, value)
    return plan


@pytest.fixture()
def no_compiler(monkeypatch):
    monkeypatch.setattr("tost.bench.plan.compiler_reason", lambda: "none here")


@pytest.mark.parametrize("op", OPS)
def test_published_formulas_are_the_reference(op):
    w = torch.randn(2, 37, 3, 5, dtype=torch.float64)
    temperature = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    bias = torch.randn(3, 37, dtype=torch.float64)
    first = w.transpose(1, 2)
    if op == "full":
        got, expected = published.full(first, temperature[:, None]), tssa(w, temperature, backend="reference")
    else:
        got = published.causal(first, temperature[:, None], bias[..., None])
        expected = causal_tssa(w, temperature, position_bias=bias, backend="reference")
    assert_close(got.transpose(1, 2), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
def test_both_softmax_attentions_agree(is_causal):
    q, k, v = torch.randn(3, 2, 4, 33, 8)
    assert_close(
        published.softmax(q, k, v, is_causal), published.softmax_fused(q, k, v, is_causal), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["published", "eager", "cpu"])
def test_entries_compute_the_operator_with_gradients(name, op):
    case = SMALL._replace(op=op)
    for got, expected in zip(Entry(name, case).outputs(), gate.in_float64(case, "reference"), strict=True):
        assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", [n for n in CONTESTANTS if n != "compiled"])
def test_every_entry_runs(name, op, train):
    result = Entry(name, SMALL._replace(op=op, train=train)).run()
    assert all(part.isfinite().all() for part in (result if isinstance(result, tuple) else (result,)))


def test_the_gate_is_green_for_what_is_right():
    checks = gate.check_definition() + gate.check_case(SMALL, [Entry(n, SMALL) for n in ("published", "cpu", "clone")])
    assert len(checks) == 12
    assert all(check.green for check in checks), [str(check) for check in checks if not check.green]


@pytest.mark.parametrize("spoil", [lambda y: y * 1.001, lambda y: y * torch.nan], ids=["wrong", "nan"])
def test_the_gate_is_red_for_a_wrong_value(spoil, monkeypatch):
    monkeypatch.setitem(
        CONTESTANTS, "eager", contestants.Contestant("spoilt", "ours", lambda case: lambda w, t: spoil(tssa(w, t)))
    )
    red = [check for check in gate.check_case(SMALL, [Entry("eager", SMALL)]) if not check.green]
    assert {check.what for check in red} == {"y", "dw", "dtemperature"}
    assert "B2 N37 H3 D5" in str(red[0])


def test_the_gate_sees_a_gradient_that_alone_is_wrong(monkeypatch):
    def frozen(case):
        return lambda w, t: tssa(w, t) + 0 * w if not w.requires_grad else tssa(w, t) + 0.01 * (w - w.detach())

    monkeypatch.setitem(CONTESTANTS, "eager", contestants.Contestant("spoilt", "ours", frozen))
    assert [check.what for check in gate.check_case(SMALL, [Entry("eager", SMALL)]) if not check.green] == ["dw"]


def test_a_red_gate_prints_no_speed_up(monkeypatch, capsys, tmp_path, no_compiler):
    spoilt = contestants.Contestant("spoilt", "ours", lambda case: lambda w, t: 1.01 * tssa(w, t))
    monkeypatch.setitem(CONTESTANTS, "cpu", spoilt)
    monkeypatch.setattr(ops, "make_plan", lambda *_: small_plan())
    code = ops.bench_ops(quick=True, out=tmp_path)
    told = capsys.readouterr()
    assert code == 1
    assert told.out == ""
    assert "wrong results" in told.err and "cpu full" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["ops.json"]


def test_a_green_run_reports_and_writes(monkeypatch, capsys, tmp_path, no_compiler):
    monkeypatch.setattr(ops, "make_plan", lambda *_: small_plan())
    assert ops.bench_ops(quick=True, out=tmp_path, json=tmp_path / "all.json") == 0
    text = capsys.readouterr().out
    assert "| tost, cpu backend | " in text and "left out, torch.compile does not work here" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.json", "ops.csv", "ops.json", "ops.png"]
    found = json.loads((tmp_path / "ops.json").read_text())
    assert all(check["green"] for check in found["checks"])
    assert {row["contestant"] for row in found["times"]} == set(CONTESTANTS) - {"compiled"}
    assert all(row["ms"] > 0 and row["speed_up"] > 0 for row in found["times"])
    assert {row["contestant"] for row in found["decode"]} == {"eager", "cpu", "published"}


def test_what_does_not_fit_is_left_out_and_says_so():
    plan = small_plan(tokens=(1024, 65536), call_limit_s=1.0)
    huge = Case("full", True, 1, 65536, 8, 48)
    assert "GiB" in plan.obstacle("softmax", huge)
    plan.note("sdpa", huge._replace(N=1024), 0.1)
    assert plan.obstacle("sdpa", huge) == "over 1 s a call"
    plan.note("cpu", huge._replace(N=1024), 0.01)
    assert plan.obstacle("cpu", huge) is None
    assert plan.obstacle("sdpa", Case("full", True, 2, 4096, 12, 64)) == ""
    plan.budget_s = -1.0
    assert plan.obstacle("sdpa", huge._replace(N=1024)) == "out of time"
    assert plan.obstacle("published", huge._replace(N=1024)) is None


def test_plans_cover_both_operators_and_directions():
    cases = make_plan(quick=True).cases()
    assert {(case.op, case.train) for case in cases} == {(op, train) for op in OPS for train in (False, True)}
    assert max(case.N for case in cases) == 16384
    assert (2, 8192, 12, 64) in {case[2:] for case in make_plan(quick=False).cases()}


def test_inputs_are_the_same_for_every_contestant():
    for a, b in zip(make_inputs(SMALL), make_inputs(SMALL)):
        assert torch.equal(a, b)
    assert torch.equal(Entry("published", SMALL).inputs[0].transpose(1, 2), Entry("cpu", SMALL).inputs[0])


def test_rounds_pair_up_and_turn_around():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = paired(calls, 4)
    assert [len(taken) for taken in samples.values()] == [4, 4]
    turns = [name for i, name in enumerate(order[4:]) if i == 0 or name != order[4 + i - 1]]
    assert turns == ["b", "a", "b", "a", "b"]  # b a | a b | b a | a b


def test_ratio_is_the_median_over_common_rounds():
    assert ratio([2.0, 4.0, 90.0], [1.0, 1.0, 10.0]) == 4.0
    assert ratio([2.0, 4.0, 90.0], [1.0]) == 2.0


def test_saved_bytes_count_each_storage_once_and_no_input():
    case = Case("full", True, 1, 256, 4, 32)
    assert memory.saved_bytes("sdpa", case) >= case.w_bytes  # its output at least
    assert 2 * case.w_bytes < memory.saved_bytes("published", case) < 12 * case.w_bytes
    for name in ("eager", "cpu"):
        for op in OPS:
            assert memory.saved_bytes(name, case._replace(op=op)) <= 0.1 * case.w_bytes, (name, op)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are reset on Linux only")
def test_peak_memory_is_that_of_the_call():
    case = Case("full", False, 1, 16384, 8, 32)  # w is 16 MiB
    (clone,) = memory.peaks("clone", [case])
    (publ,) = memory.peaks("published", [case])
    assert clone == pytest.approx(case.w_bytes, rel=0.3)
    assert publ > 1.8 * case.w_bytes


def test_late_rivals_are_measured_where_that_is_short():
    plan = small_plan(tokens=(16, 64), memory_directions=(True,), deadline_s=-1.0)
    cases = ops.memory_groups(plan, plan.cases())["sdpa"]
    assert [(case.N, case.op, case.train) for case in cases] == [(n, op, True) for n in (16, 64) for op in OPS]
    for op in OPS:
        plan.note("sdpa", Case(op, True, 1, 16, 8, 48), 1.0)
    records = ops.memory_records(plan, "sdpa", cases)
    assert [record["note"] for record in records] == [None, None, "over 3 s a call", "over 3 s a call"]
    if sys.platform == "linux":
        assert [record["bytes"] is None for record in records] == [False, False, True, True]


def test_decode_steps_are_measured():
    records = decode_records(["cpu"], rounds=2)
    assert [record["contestant"] for record in records] == ["cpu", "published"]
    assert all(record["us"] > 0 for record in records)


def test_tables_say_why_there_is_no_time():
    assert time_cell({"ms": None, "note": "over 5 s a call"}) == "over 5 s a call"
    assert time_cell({"ms": 1234.5, "contestant": "cpu", "speed_up": 12.34}) == "1,234 (12x)"
    assert time_cell({"ms": 1.2345, "contestant": "published", "speed_up": 1.0}) == "1.23"
    assert number(99.96) == "100"


def test_results_survive_json(tmp_path):
    result = ops.Result(quick=True)
    write_json(asdict(result), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == asdict(result)
    assert "processor" in report(asdict(result))
    assert set(machine()) >= {"processor", "cores", "threads", "versions", "allocator", "load"}


@pytest.mark.parametrize("arguments", [{"tokens": [0]}, {"rounds": 0}])
def test_senseless_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        ops.bench_ops(**arguments)
