"""The sources of `tost bench drift`: their floor is what probability says, and models learn towards it."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tost.bench import streams
from tost.bench.streams import KEPT, SOURCES, K, V, build, by_position, draw, losses, rows, trained, with_floor


@pytest.mark.parametrize("change", [0.0, 0.3])
def test_the_floor_is_the_sum_over_every_course_of_regimes(change):
    ids = draw(3, 6, change, torch.Generator().manual_seed(0))
    likely, found = rows(), with_floor(ids, change).floor
    move = (1 - change) * np.eye(K) + change / K
    for stream, told in zip(ids.tolist(), found):
        evidence = [
            sum(
                np.prod([1 / K, *(move[a, b] for a, b in itertools.pairwise(course))])
                * np.prod([likely[regime, symbol] for regime, symbol in zip(course, stream)])
                for course in itertools.product(range(K), repeat=n)
            )
            for n in range(1, 7)
        ]
        assert_close(told, torch.tensor(evidence[:-1]).log() - torch.tensor(evidence[1:]).log())


def test_symbols_and_changes_are_as_frequent_as_told():
    ids = draw(1, 400_000, 1 / 8, torch.Generator().manual_seed(1))
    assert ids.min() == 0 and ids.max() == V - 1
    share = torch.bincount(ids[0], minlength=V) / ids.numel()
    assert_close(share.double(), torch.from_numpy(rows().mean(0)), rtol=0, atol=0.006)
    one = draw(200, 2000, 0.0, torch.Generator().manual_seed(2))
    for stream in one:  # each of one regime
        share = torch.bincount(stream, minlength=V).numpy() / 2000
        assert min(np.abs(share - row).max() for row in rows()) < 0.06


@pytest.mark.parametrize("kept", KEPT)
def test_every_part_of_a_model_learns(kept):
    model = build(kept)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.rand(p.shape))
    logits = model(draw(2, 40, 0.0, torch.Generator().manual_seed(3)))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(80) % V).backward()
    for name, p in model.named_parameters():
        assert not p.requires_grad or (p.grad is not None and p.grad.abs().max() > 0), name
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[-1] for name in fixed} == ({"power"} if kept == "temperature" else set())


def test_a_stretch_holds_its_own_losses():
    found = list(by_position(("none",), 2, 1, 2, 100, "cpu"))
    assert [(r["source"], r["start"], r["end"]) for r in found] == [
        (source, *ends) for source in SOURCES for ends in ((0, 64), (64, 100))
    ]
    ids = draw(2, 101, 0.0, torch.Generator().manual_seed(99))
    expected = losses(trained("none", 0.0, 2, 0, "cpu"), ids, "cpu")
    assert found[1]["loss"] == pytest.approx(float(expected[:, 64:].mean()), rel=1e-6)
    assert found[1]["floor"] == pytest.approx(float(with_floor(ids, 0.0).floor[:, 64:].mean()))


def test_statistics_are_read_and_the_control_reads_nothing(monkeypatch):
    monkeypatch.setattr(streams, "TRAINED", 64)
    gap = {
        kept: np.mean([r["loss"] - r["floor"] for r in by_position((kept,), 100, 1, 8, 512, "cpu") if r["start"] >= 64])
        for kept in ("none", "temperature")
    }
    assert 0 < gap["temperature"] < gap["none"]
