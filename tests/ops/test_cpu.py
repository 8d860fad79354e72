"""What is particular to the fused CPU backend: threads, processes, its cache, its registration and its long sums."""

# B batch, N tokens, H heads, D features per head

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import tost
from tests.ops.common import TOLERANCE, assert_near, make_inputs, make_state, value_and_gradients
from tost.ops import TSSAState, causal_tssa, cpu, tssa
from tost.ops.cpu import compile as compiling

OPS = pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
SHAPES = [(1, 4099, 3, 20), (3, 700, 4, 16), (40, 61, 4, 16)]  # shared by threads; uneven; one job a sequence


@pytest.fixture
def threads():
    """Sets torch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned_scratch():
    """The kernels' scratch memory holds NaN: one that reads what it did not write fails."""
    compiling._call_memory(1 << 22)
    compiling._local.memory[:] = 255


def agree_with_eager(op, w, temperature, g, options):
    """Values and gradients, eager in float64 on the same numbers."""
    wide = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in options.items()}
    expected = value_and_gradients(op, w.double(), temperature.double(), g.double(), "eager", wide)
    found = value_and_gradients(op, w, temperature, g, "cpu", options)
    values, gradients = TOLERANCE[w.dtype]
    for name, part in expected.items():
        assert_near(found[name], part, 10 * gradients if name.startswith("d ") else values, name)


@OPS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shared_between_threads(op, shape, dtype, threads):
    """One thread, two and five (more than there are cores) agree with eager."""
    w, temperature, g = make_inputs(shape, dtype)
    options = {"mask": torch.rand(shape[:2], generator=torch.Generator().manual_seed(0)) > 0.2}
    variants = [options]
    if op is causal_tssa:
        options["state"] = make_state(shape[0], *shape[2:])
        options["position_bias"] = (torch.randn(shape[2], 4200) * 0.1).to(temperature.dtype)
        variants.append({**options, "decay": torch.linspace(0.9, 1, shape[2]).to(temperature.dtype)})
    for count in (1, 2, 5):
        threads(count)
        for variant in variants:
            agree_with_eager(op, w, temperature, g, variant)


@OPS
def test_ragged_batch(op, threads):
    """One long sequence among many short and empty ones."""
    lengths = [3, 0, 2900, 17, 1, 64, 65, 300, 0]
    w, temperature, g = make_inputs((1, sum(lengths), 3, 20))
    for count in (1, 2, 3):
        threads(count)
        agree_with_eager(op, w, temperature, g, {"cu_seqlens": torch.tensor([0, *lengths]).cumsum(0)})


@OPS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_runs_repeat_bit_for_bit(op, shape):
    w, temperature, g = make_inputs(shape, torch.float32)
    first, second = (value_and_gradients(op, w, temperature, g, "cpu", {}) for _ in range(2))
    for name, part in first.items():
        assert torch.equal(part, second[name]), name


@OPS
def test_many_python_threads_at_once(op):
    inputs = [make_inputs((2, 600 + 50 * k, 3, 20), torch.float32, seed=k) for k in range(6)]
    expected = [value_and_gradients(op, *part, "cpu", {}) for part in inputs]
    found = [[] for _ in inputs]

    def work(k):
        for _ in range(10):
            found[k].append(value_and_gradients(op, *inputs[k], "cpu", {}))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for wanted, runs in zip(expected, found):
        assert len(runs) == 10
        for run in runs:
            for name, part in wanted.items():
                assert torch.equal(run[name], part), name


class Calls(Dataset):
    """Every item is a call, large enough to be shared between threads where there are any."""

    def __len__(self):
        return 4

    def __getitem__(self, k):
        w, temperature, _ = make_inputs((1, 3000, 3, 20), torch.float32, seed=k)
        torch.set_num_threads(2)  # a loader's worker has one thread; a fork by hand has as many as its parent
        return torch.stack([tssa(w, temperature, backend="cpu"), causal_tssa(w, temperature, backend="cpu")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers(threads):
    """OpenMP does not survive a fork: a child of a process that has used it runs on one thread, and is right."""
    threads(2)
    expected = [Calls()[k] for k in range(4)]
    loader = DataLoader(Calls(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120)
    for found, wanted in zip(loader, expected):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def copy_package(folder):
    shutil.copytree(
        Path(tost.__file__).parent, folder / "tost", ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    )


ONE_CALL = """
import torch
from tost.ops import tssa
from tost.ops.cpu import compile
seconds = compile.seconds(lambda: tssa(torch.ones(1, 4, 2, 3), torch.ones(2), backend="cpu"))
print(compile._compiled["full", torch.float32, "keep alive"].cache_hits)
"""


def run_python(code, folder, **environment):
    """Output of a fresh interpreter that imports the package from `folder`."""
    env = {**os.environ, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
