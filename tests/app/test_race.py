"""The Speed tab measures with the benchmark's functions, says who was left out and why, and stays within its limits."""

import re

import pytest

from tost.app import race as races
from tost.app.race import MOST, PageLimits, charts, lengths, progress, race, table
from tost.bench import gate
from tost.bench.contestants import Case
from tost.bench.limits import estimate


def test_lengths_double_up_to_what_was_asked():
    assert lengths(1000) == [256, 512, 1000] and lengths(256) == lengths(-5) == [256]
    assert lengths(10**9)[-1] == MOST


def test_unfused_softmax_is_refused_beyond_the_bytes():
    limits = PageLimits(2.0, float("inf"))
    for N, said in ((1024, None), (MOST, "GiB, the page allows 2")):
        case = Case("full", False, 1, N, 8, 48)
        obstacle = limits.obstacle("softmax", case)
        assert obstacle is None if said is None else said in obstacle
        assert limits.obstacle("cpu", case) is None
    assert estimate("softmax", Case("full", False, 1, MOST, 8, 48)) > 4 * 8 * MOST**2


@pytest.mark.parametrize(("op", "most"), [("full", 1024), ("causal", 512)])
def test_a_race(op, most, monkeypatch):
    too_much = estimate("softmax", Case(op, False, 1, most, 8, 48))
    monkeypatch.setattr(races, "BYTES", too_much - 1)
    seen = [(found.done, found.doing, found) for found in race(op, most, rounds=3)]
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    *_, (done, doing, found) = seen
    assert (done, doing) == (1.0, "") and found.counts[-1] == most
    assert found.result.checks and not found.result.red
    for what, key in (("time", "ms"), ("peak", "bytes")):
        ours, fused, unfused = (found.of(what, name) for name in found.names)
        assert all(ours[n][key] is not None and fused[n][key] is not None for n in found.counts)
        assert all(unfused[n][key] > 0 for n in found.counts[:-1]) and unfused[most][key] is None
    told = re.compile(rf"softmax, unfused left out from {most:,} tokens: needs 0\.\d GiB, the page allows 0")
    assert all(told.search(picture) for picture in charts(found))
    rows = table(found)
    assert rows.count("<tr") == 7 and rows.count("class='none'>needs") == 2
    assert "aria-valuenow='100'" in progress(found) and "done" in progress(found)


def test_wrong_values_are_not_timed(monkeypatch):
    monkeypatch.setattr(gate, "REFERENCE_TOLERANCE", -1.0)  # nothing is this exact
    seen = []
    with pytest.raises(ValueError, match=r"nothing is timed: float64 eager"):
        seen.extend(race("full", 256))
    assert len(seen) == 1 and not seen[0].result.records


def test_an_unknown_operator_is_refused():
    with pytest.raises(ValueError, match="full, causal"):
        next(race("half", 256))
