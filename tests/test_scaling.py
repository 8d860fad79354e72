"""The plan on paper is what its page says, and its formulae count what the layers send."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pytest import approx

from benchmarks import gloo, scaling
from benchmarks.scaling import H100, MODELS, Cluster, memory, ring_attention, smallest, tost, weight_wait
from tost.nn import CausalTSSA, context_parallel
from tost.ops.collectives import communicated

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
SEVEN = MODELS["7b"]


def test_the_page_shows_what_the_command_prints(capsys):
    scaling.table()
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert len(printed) == 2
    page = PAGE.read_text("utf-8")
    for table in printed:
        assert table in page, "docs/scaling.md: put in what `python -m benchmarks.scaling table` prints"
    assert page.count("| ---") >= 4


def test_constants_on_the_page_are_those_of_the_file():
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.e+-]+) ", PAGE.read_text("utf-8"), re.M))
    assert {name: float(value) for name, value in told.items()} == {k: approx(v) for k, v in vars(H100).items()}


def test_a_ring_by_hand():
    cluster = Cluster(4, 10.0, 1.0, 5.0, inside=100.0, outside=10.0)
    assert cluster.ring(1, 1000.0) == 0
    assert cluster.ring(3, 200.0) == 10 + 2 * (1 + 200 / 100)
    assert cluster.ring(3, 200.0, rounds=2) == 10 + 2 * 2 * (1 + 200 / 100)
    assert cluster.ring(8, 200.0) == 10 + 6 * 1 + 5 + 7 * 200 / 40  # four ways out of a machine
    assert cluster.ring(3, 200.0, spread=4) == 10 + 2 * 5 + 2 * 200 / 10  # a process of each machine


def test_sums_sent_are_those_that_a_layer_sends():
    layer, x = CausalTSSA(64, 4), torch.randn(1, 5, 64)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with context_parallel(layer), communicated() as forward:
            y = layer(x)
        with communicated() as backward:
            y.sum().backward()
    finally:
        dist.destroy_process_group()
    model = scaling.Model(64, 1, 4)
    R = 8  # gathers pass what each has to all others; the forward pass is done again for the backward
    assert tost(model, H100, R, R, 4096).sent == (R - 1) * (2 * forward.bytes + backward.bytes)
    assert (forward.calls, backward.calls) == (2, 2)


def test_what_is_sent_grows_with_the_sequence_for_keys_and_values_alone():
    short, long = 2**20, 2**24
    assert tost(SEVEN, H100, 64, 64, short).sent == tost(SEVEN, H100, 64, 64, long).sent
    assert tost(SEVEN, H100, 64, 64, short).context == tost(SEVEN, H100, 64, 64, long).context
    assert ring_attention(SEVEN, H100, 64, 64, long).sent == 16 * ring_attention(SEVEN, H100, 64, 64, short).sent
    with torch.device("meta"):
        heads = torch.empty(2, short // 64, SEVEN.dim, dtype=torch.bfloat16)  # keys and values of a process
    assert ring_attention(SEVEN, H100, 64, 64, short).sent == approx(63 * heads.nbytes * 4 * SEVEN.layers)


def test_one_process_waits_for_nobody():
    for step in (tost(SEVEN, H100, 1, 1, 2**15), ring_attention(SEVEN, H100, 1, 1, 2**15)):
        assert step.context == step.weights == step.sent == 0
    products = 8 * SEVEN.parameters * 2**15 / H100.products
    assert products < tost(SEVEN, H100, 1, 1, 2**15).seconds < 1.05 * products


def test_weights_hide_behind_long_stretches_alone():
    assert weight_wait(SEVEN, H100, 64, 8, compute=1.0) == 0
    assert weight_wait(SEVEN, H100, 64, 8, compute=0.0) > 0
    assert weight_wait(SEVEN, H100, 1, 1, compute=0.0) == 0


def test_the_smallest_group_that_fits():
    R = smallest(SEVEN, H100, 64, 2**20)
    assert R == 8 and memory(SEVEN, H100, 64, 8, 2**20) <= H100.room < memory(SEVEN, H100, 64, 4, 2**20)
    assert smallest(SEVEN, H100, 8, 2**26) is None
    assert smallest(MODELS["1b"], H100, 64, 2**20) == 4


def test_an_unknown_model():
    with pytest.raises(SystemExit, match="choose one of 1b, 7b, 70b"):
        scaling.table("8b")


def test_plans_that_do_not_exist():
    with pytest.raises(SystemExit, match="take more GPUs"):
        scaling.table("70b", gpus=(8,))
    with pytest.raises(SystemExit, match="from 1"):
        scaling.table(gpus=(0,))


def test_latency_and_bandwidth_are_found_again():
    sent = np.array([1e3, 1e4, 1e5, 1e6])
    latency, per_byte = gloo.fit(sent, 3e-5 + 2e-9 * sent)
    assert (latency, per_byte) == (approx(3e-5), approx(2e-9))
    assert gloo.on_the_wire("sum", 4, 100) == 150 and gloo.on_the_wire("gather", 4, 100) == 300


def test_measuring_here(capsys, monkeypatch):
    monkeypatch.setattr(gloo, "SIZES", (512, 4096, 65536))
    gloo.measure(rounds=2, processes=(2,))
    told = capsys.readouterr().out
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| 2 | ")]
    assert [row[1] for row in rows] == ["sum", "gather"] and all(float(row[2].replace(",", "")) > 0 for row in rows)
    D = gloo.C // gloo.H
    full, causal = 4 * gloo.H * (2 * D + 1 + 2 * D), 2 * 8 * (gloo.H * (2 * D + 1) + 1)
    assert f"| full, 2 | {full:,} | {full:,} |" in told and f"| causal, 2 | {causal:,} | {causal:,} |" in told
