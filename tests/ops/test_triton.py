"""What is particular to the Triton backend: both causal forms, every tile, its settings, its compilation for GPUs."""

# B batch, N tokens, H heads, D features per head

import json
import subprocess
import sys

import pytest
import torch

from tests.ops.common import (
    TRITON,
    assert_near,
    causal_tssa,
    compare,
    dtype_id,
    make_inputs,
    make_state,
    tssa,
    value_and_gradients,
)
from tost.ops import TSSAState, which_backend

if not TRITON:
    pytest.skip("triton is not installed here (it exists for Linux and Windows)", allow_module_level=True)

import triton
import triton.language as tl

from tost.ops.triton import WIDEST, settings, tune
from tost.ops.triton.tiles import tile_at, tile_count, tile_range, tiles_of

OPS = pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="of the interpreter")


@pytest.mark.parametrize("whole", [True, False], ids=["by sequence", "by tile"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=dtype_id)
@pytest.mark.parametrize("packed", [False, True], ids=["batch", "packed"])
def test_both_causal_forms(whole, dtype, packed, monkeypatch):
    """One program a sequence, and tiles with a scan over them: the choice between them is speed's alone."""
    monkeypatch.setattr(settings, "SEQUENCES_PER_UNIT", 0 if whole else 10**6)
    monkeypatch.setattr(settings, "ONE_LAUNCH", 0)
    shape = (1 if packed else 2, 100, 2, 6)
    w, temperature, g = make_inputs(shape, dtype)
    options = {
        "cu_seqlens": torch.tensor([0, 65, 65, 70, 100]) if packed else None,
        "mask": torch.rand(shape[:2], generator=torch.Generator().manual_seed(0)) > 0.3,
        "position_bias": (torch.randn(2, 110) * 0.1).to(temperature.dtype),
        "decay": torch.tensor([0.2, 0.97], dtype=temperature.dtype),
        "state": make_state(4 if packed else 2, 2, 6),
    }
    compare(causal_tssa, w, temperature, g, "triton", options)


@interpreted
@pytest.mark.parametrize("tile", [16, 32])
def test_small_tiles(tile, monkeypatch):
    """Without a gradient tiles shrink until the chip is full."""
    monkeypatch.setattr("tost.ops.triton.tiles.INTERPRETED_UNITS", 130 // tile)
    monkeypatch.setattr(settings, "TILES_PER_UNIT", 1)
    w, temperature, _ = make_inputs((1, 130, 3, 5))
    assert settings.causal(w, None, None) == (False, tile)
    y, end = causal_tssa(w, temperature, return_state=True, backend="triton")
    expected, wanted = causal_tssa(w, temperature, return_state=True, backend="reference")
    assert_near(y, expected, 1e-12, "y")
    for name, part in end._asdict().items():
        assert_near(part, getattr(wanted, name), 1e-12, name)


@interpreted
def test_scan_over_many_tiles(monkeypatch):
    """More tiles than the scan over them takes at once."""
    rule = settings.scan
    monkeypatch.setattr(settings, "scan", lambda columns: {**rule(columns), "MANY": 2})
    w, temperature, g = make_inputs((1, 300, 1, 1))
    found = value_and_gradients(causal_tssa, w, temperature, g, "triton", {"decay": torch.tensor([0.999]).double()})
    wanted = value_and_gradients(causal_tssa, w, temperature, g, "eager", {"decay": torch.tensor([0.999]).double()})
    for name, part in wanted.items():
        assert_near(found[name], part, 1e-10, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
@pytest.mark.parametrize("N", [1, 150], ids=["a token", "many"])
def test_ten_million_tokens_earlier(dtype, N):
    """After a state of ten million tokens a float32 sum would stand still."""
    w, temperature, _ = make_inputs((1, N, 2, 4), dtype)
    before = 1e7
    state = TSSAState(
        torch.full((1, 2, 4), before).double(),
        torch.full((1, 2, 4), before / 2).double(),
        torch.full((1, 2), before / 2).double(),
        torch.tensor([int(before)]),
    )
    y, end = causal_tssa(w, temperature, state=state, return_state=True, backend="triton")
    expected, wanted = causal_tssa(w.double(), temperature.double(), state=state, return_state=True, backend="eager")
    assert_near(y, expected, 1e-5 if dtype == torch.float32 else 8e-3, "y")
    for name in ("energy", "moment", "mass"):
        grown, grow = getattr(end, name) - getattr(state, name), getattr(wanted, name) - getattr(state, name)
        assert_near(grown, grow, 1e-5, name)


@OPS
def test_runs_repeat_bit_for_bit(op):
    w, temperature, g = make_inputs((1, 70, 2, 4), torch.float32)
    first, second = (value_and_gradients(op, w, temperature, g, "triton", {}) for _ in range(2))
    for name, part in first.items():
        assert torch.equal(part, second[name]), name


@interpreted
@OPS
def test_programs_may_run_in_any_order(op, monkeypatch):
    """The programs of one launch do not wait for one another and do not share a result."""
    from triton.runtime import interpreter

    w, temperature, g = make_inputs((2, 70, 2, 4), torch.float32)
    options = {"mask": torch.rand(2, 70) > 0.2}
    expected = value_and_gradients(op, w, temperature, g, "triton", options)

    def backwards(*bounds):  # the loops over the programs have one bound, those within a program three
        return reversed(range(*bounds)) if len(bounds) == 1 else range(*bounds)

    monkeypatch.setattr(interpreter, "range", backwards, raising=False)
    found = value_and_gradients(op, w, temperature, g, "triton", options)
    for name, part in expected.items():
        assert torch.equal(found[name], part), name


@triton.jit
def rows_kernel(out, table, first, p, N, C, T: tl.constexpr, PACKED: tl.constexpr):
    sequence, start, count = tile_at(tl.program_id(0) + p, table, N, T, PACKED)
    begin, last = tile_range(sequence, first, N, T, PACKED)
    tl.store(out, sequence)
    tl.store(out + 1, start * C)
    tl.store(out + 2, count)
    tl.store(out + 3, begin)
    tl.store(out + 4, last)


def test_offsets_beyond_two_to_the_31():
    N, C, T, p = 3_000_000, 4096, 64, 3 * 46_875 + 7
    out = torch.zeros(5, dtype=torch.int64, device="cuda" if torch.cuda.is_available() else "cpu")
    rows_kernel[1,](out, None, None, p, N, C, T=T, PACKED=False)
    start = 3 * N + 7 * T
    assert out.tolist() == [3, start * C, T, 3 * 46_875, 4 * 46_875]


def test_tiles_of_packed_sequences():
    bounds, T = [0, 0, 17, 18, 50, 50], 16
    w = torch.zeros(1, 50, 1, 1)
    tiles = tiles_of(w, torch.tensor(bounds), T)
    assert tiles.P == tile_count(w, torch.tensor(bounds), T) == 3 + 5
    assert tiles.first.tolist() == [0, 0, 2, 3, 5, 5]
    seen = [row for _, start, end in tiles.table.tolist() for row in range(start, end)]
    assert seen == list(range(50))  # every row once, and a tile too many has none
    for sequence, start, end in tiles.table.tolist()[: tiles.first[-1]]:
        assert bounds[sequence] <= start < end <= min(start + T, bounds[sequence + 1])


@pytest.mark.parametrize("op", ["tssa", "causal_tssa"])
def test_operators_are_well_registered(op):
    """torch.library.opcheck: schemas, shapes when tracing, autograd."""
    w, temperature, _ = make_inputs((1, 70, 2, 3), torch.float32)
    w.requires_grad_(), temperature.requires_grad_()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    w, temperature = w.detach().to(device).requires_grad_(), temperature.detach().to(device).requires_grad_()
    inputs = (w, temperature, None, None) if op == "tssa" else (w, temperature, *(None,) * 7, True)
    torch.library.opcheck(getattr(torch.ops.tost, f"triton_{op}"), inputs)


def test_reasons_to_decline(monkeypatch):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wide = torch.empty(1, 1, 100, 200, device=device)
    with pytest.raises(ValueError, match=rf"backend='triton' declines: .*{WIDEST}.*100 heads of 200.*backend=None"):
        which_backend(wide, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"run on a GPU.*TRITON_INTERPRET=1"):
        which_backend(torch.ones(1, 1, 1, 1), "triton")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"k": {"ROWS": 8, "num_warps": 2}}', {"k": {"ROWS": 8, "num_warps": 2}}),
        ('{"k": {"ROWS": 3}}', {}),  # no such block
        ('{"k": {"num_stages": 2}}', {}),  # nothing the tuner sets
        ('{"k": [1]}', {}),
        ("[1, 2]", {}),
        ('{"k": ', {}),
        ("", {}),
    ],
)
def test_files_of_the_tuner(text, kept, tmp_path):
    file = tmp_path / "tuned.json"
    file.write_text(text)
    assert settings.tuned(file) == kept
    assert settings.tuned(tmp_path / "missing.json") == {}


@pytest.mark.parametrize("kernel", tune.KERNELS)
def test_every_setting_gives_the_same(kernel):
    """Whatever the tuner may try changes no value beyond rounding."""
    w, temperature, g = make_inputs((1, 70, 2, 6))
    call, options = tune.KERNELS[kernel]
    op = causal_tssa if kernel.startswith("causal") else tssa
    expected = value_and_gradients(op, w, temperature, g, "eager", {})
    try:
        for choice in list(tune.candidates(options))[:: 7 if "ROWS" in options else 4]:
            settings.tried[settings.key(kernel, w)] = choice
            found = value_and_gradients(op, w, temperature, g, "triton", {})
            for name, part in expected.items():
                assert_near(found[name], part, 1e-10, f"{kernel} {choice} {name}")
    finally:
        settings.tried.clear()


def test_tuning_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


BY_LANE = ("causal.output_kernel", "causal_backward.pull_kernel", "causal_backward.gradient_kernel")


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_compiles_for_gpus_that_are_not_here(target):
    """NVIDIA's Hopper and AMD's MI300: all kernels compile, hardly spill, read 16 bytes at once, or a row a warp."""
    command = [sys.executable, "-m", "tests.ops.triton_compile", target, "--shapes", "base"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({row["kernel"] for row in rows}) == 16
    for row in rows:
        assert row["shared"] <= 64 * 1024, row
        if target.startswith("cuda"):
            assert row["spilled"] <= (256 if row["everything"] else 16), row
            if row["kernel"] not in BY_LANE and not row["kernel"].endswith(("total_kernel", "scan_kernel")):
                assert row["wide"], row


@interpreted
def test_results_share_no_memory(monkeypatch):
    """torch's operators may not return views of one another, not even for one sequence of one head."""
    monkeypatch.setattr(settings, "ONE_LAUNCH", 0)
    monkeypatch.setattr(settings, "SEQUENCES_PER_UNIT", 10**6)
    w, temperature, _ = make_inputs((1, 5, 1, 1))
    results = torch.ops.tost.triton_causal_tssa(w, temperature, *(None,) * 7, True)
    assert len({part.untyped_storage().data_ptr() for part in results}) == len(results)
