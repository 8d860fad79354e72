"""Clocks, peaks, bytes and operations, tables, and the recorded page."""

from __future__ import annotations

import sys

import pytest
import torch

from tost.bench import measure, peak
from tost.bench.contestants import Case
from tost.bench.measure import paired, ratio
from tost.bench.peak import Peak, peaks
from tost.bench.record import replace_section, results_page
from tost.bench.roofline import decode_bytes, work
from tost.bench.settings import Settings
from tost.bench.tables import mebibytes, number, pivot, timed, times, tokens

CASE = Case("full", False, 2, 10, 3, 5)  # W = 300 elements, S = 600 scores


def test_rounds_pair_up_and_turn_around():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = paired(calls, 4)
    assert [len(taken) for taken in samples.values()] == [4, 4]
    turns = [name for i, name in enumerate(order[4:]) if i == 0 or name != order[4 + i - 1]]
    assert turns == ["b", "a", "b", "a", "b"]  # b a | a b | b a | a b


def test_slow_calls_run_fewer_rounds(monkeypatch):
    seconds = {"short": 0.1, "slow": 2.0, "once": 9.0}
    monkeypatch.setattr(measure, "wall_clock", lambda call, repeats: seconds[call()])
    samples = paired({name: lambda name=name: name for name in seconds}, 5)
    assert {name: len(taken) for name, taken in samples.items()} == {"short": 5, "slow": 2, "once": 1}


def test_ratio_is_the_median_over_common_rounds():
    assert ratio([2.0, 4.0, 90.0], [1.0, 1.0, 10.0]) == 4.0
    assert ratio([2.0, 4.0, 90.0], [1.0]) == 2.0


def clones(sizes):
    for size in sizes:
        x = torch.ones(size)
        yield x.clone


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are reset on Linux only")
def test_peak_memory_is_that_of_the_call():
    case = Case("full", False, 1, 16384, 8, 32)  # w is 16 MiB
    (clone,) = peaks("tost.bench.operators:calls", ["clone", [list(case)]], 1)
    small, large = peaks("tost.bench.operators:calls", ["published", [[*case[:3], 4096, *case[4:]], list(case)]], 2)
    assert clone.bytes == pytest.approx(case.w_bytes, rel=0.3)
    assert large.bytes > 1.8 * case.w_bytes and large.bytes > 2.5 * small.bytes


def test_a_child_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(peak.sys, "executable", "false")
    assert peaks("tost.bench.operators:calls", ["clone", []], 2) == 2 * [Peak(None, "stopped, out of memory?")]


@pytest.mark.parametrize(
    ("name", "changes", "elements", "flops"),
    [
        ("copy", {}, 2 * 300, 0),
        ("clone", {"train": True}, 5 * 300, 300),  # and w * g
        ("cpu", {}, 4 * 300, 10 * 300),
        ("cpu", {"train": True}, 10 * 300, 34 * 300),
        ("cpu", {"op": "causal"}, 2 * 300, 11 * 300),
        ("sdpa", {}, 4 * 300, 2 * 600 * 5 * 2),  # two products of 2 S D operations
        ("sdpa", {"op": "causal"}, 4 * 300, 600 * 5 * 2),
        ("sdpa", {"train": True}, 13 * 300, 7 * 600 * 5 * 2),  # five more
        ("softmax", {}, 4 * 300 + 6 * 600, 2 * 600 * 5 * 2),
        ("softmax", {"train": True}, 12 * 300 + 15 * 600, 6 * 600 * 5 * 2),  # four more
        ("xca", {}, None, 2 * 2 * 300 * 5),
    ],
    ids=str,
)
def test_bytes_and_operations_are_those_counted_by_hand(name, changes, elements, flops):
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        moved, done = work(name, CASE._replace(dtype=dtype, **changes))
        assert moved == (None if elements is None else size * elements)
        assert done == flops


def test_a_backend_of_more_passes_moves_more_bytes():
    from tost.bench.contestants import OURS

    for name in set(OURS) - {"eager", "cpu"}:
        assert work(name, CASE._replace(op="causal", train=True)).bytes == 4 * 10 * 300
    assert work("eager", CASE) == (None, None)
    assert decode_bytes(1, 2, 3) == 2 * (6 + 6 + 2) * 8


def test_tables_say_why_there_is_no_time():
    cell = timed(base="published")
    assert cell({"ms": None, "note": "over 5 s a call"}) == "over 5 s a call"
    assert cell({"ms": 1234.5, "contestant": "cpu", "speed_up": 12.34}) == "1,234 (12x)"
    assert cell({"ms": 1.2345, "contestant": "published", "speed_up": 1.0}) == "1.23"
    assert (number(99.96), times(0.0031), times(4.516), tokens(2**20), tokens(1000)) == (
        "100", "0.0031x", "4.52x", "1M", "1,000",
    )  # fmt: skip
    assert mebibytes({"bytes": 2**21}) == "2" and mebibytes({"bytes": None}) == "not measured"


def test_a_pivot_keeps_the_order_of_the_names():
    rows = [{"contestant": n, "N": k, "ms": float(k), "note": None} for n in "ba" for k in (1, 2)]
    text = pivot(rows[:-1], "N", timed(), {"a": "A", "b": "B", "c": "C"}, last={"a": "1.0"}, last_head="p")
    assert text.splitlines() == [
        "|  | 1 | 2 | p |",
        "| --- | ---: | ---: | ---: |",
        "| A | 1 |  | 1.0 |",
        "| B | 1 | 2 |  |",
    ]


@pytest.fixture()
def page(tmp_path):
    path = tmp_path / "docs" / "results.md"
    path.parent.mkdir()
    sections = [f"<!-- bench {name} -->\n\nold {name}\n\n<!-- end -->" for name in ("ops cpu", "ops cuda", "scale cpu")]
    path.write_text("\n\nby hand\n\n".join(["# Results", *sections, "last words\n"]))
    return path


def test_recording_replaces_its_own_section_and_can_be_repeated(page, tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    found = results_page("ops", "cuda", inside)
    before = page.read_text()
    replace_section(found, "ops", "cuda", "new\n\n| table |\n")
    once = page.read_text()
    assert once == before.replace("old ops cuda", "new\n\n| table |")
    replace_section(found, "ops", "cuda", "new\n\n| table |\n")
    assert page.read_text() == once
    assert [path.name for path in page.parent.iterdir()] == ["results.md"]


@pytest.mark.parametrize(
    "text", ["", "<!-- bench ops cpu -->\n", "<!-- bench ops cpu -->\n<!-- bench x -->\n<!-- end -->"]
)
def test_a_page_without_the_section_is_refused(page, text):
    page.write_text(text)
    with pytest.raises(ValueError, match=r"expects the lines <!-- bench ops cpu --> and <!-- end -->"):
        results_page("ops", "cpu", page.parent)


def test_outside_of_a_checkout_nothing_is_recorded(tmp_path):
    with pytest.raises(ValueError, match="inside a checkout"):
        results_page("ops", "cpu", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"rounds": 0}, "at least 1"),
        ({"device": "tpu"}, "cpu or cuda"),
    ],
)
def test_senseless_settings_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        Settings(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_says_what_to_do():
    with pytest.raises(ValueError, match=r"needs a GPU .* use --device cpu"):
        Settings(device="cuda")
