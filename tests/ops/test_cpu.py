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

import tost
from tests.ops.common import TOLERANCE, assert_near, make_inputs, make_state, value_and_gradients
from tost.ops import TSSAState, causal_tssa, cpu, tssa
from tost.ops.cpu import compile as compiling

OPS = pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
SHAPES = [(1, 1500, 3, 20), (3, 700, 4, 16), (40, 61, 4, 16)]  # shared by threads; uneven; one job a sequence


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
        options["position_bias"] = (torch.randn(shape[2], 1500) * 0.1).to(temperature.dtype)
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


def run_python(code, folder, **environment):
    """Output of a fresh interpreter that imports the package from `folder`."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


FIRST_CALL = """
import torch
from tost.ops import tssa
from tost.ops.cpu import compile
y = tssa(torch.ones(1, 4, 2, 3), torch.ones(2), backend="cpu")
assert torch.allclose(y, torch.full_like(y, -0.25)), y  # -Pi w / (1 + m), Pi = 1/2 and m = 1
print(compile.kernel("full", torch.float32).cache_hits)
"""


FORKS = """
import os, sys, torch
from torch.utils.data import DataLoader
from tost.ops import causal_tssa, tssa

torch.set_num_threads(2)
inputs = [torch.randn(1, 1500, 3, 20) for _ in range(4)]
temperature = torch.ones(3)

class Calls:
    def __len__(self):
        return 4
    def __getitem__(self, k):
        return [op(inputs[k], temperature, backend="cpu") for op in (tssa, causal_tssa)]

def agree(found, wanted):
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(found, wanted))

expected = [Calls()[k] for k in range(4)]
child = os.fork()  # has two threads still, as far as torch knows
if child == 0:
    found = Calls()[0]
    torch.set_num_threads(1)  # torch's own comparison would wait for threads that the fork left behind
    os._exit(0 if agree(found, expected[0]) else 1)
assert os.waitpid(child, 0)[1] == 0
loader = DataLoader(Calls(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
assert all(agree(found, wanted) for found, wanted in zip(loader, expected))
print("agree")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_children():
    """OpenMP does not survive a fork: a child of a process that has used it runs on one thread, and is right."""
    assert run_python(FORKS, Path(tost.__file__).parents[1]) == ["agree"]


@pytest.fixture
def package(tmp_path):
    """A folder with a copy of the package, without anything compiled."""
    source = Path(tost.__file__).parent
    shutil.copytree(source, tmp_path / "tost", ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    return tmp_path


def test_compiled_code_is_kept(package):
    """The second process loads what the first compiled; a change of any source file makes it compile again."""
    assert run_python(FIRST_CALL, package) == ["0"]
    assert run_python(FIRST_CALL, package) == ["1"]
    with open(package / "tost" / "ops" / "cpu" / "simd.py", "a") as file:
        file.write("\n# changed\n")
    assert run_python(FIRST_CALL, package) == ["0"]


UNWRITABLE = """
import numba.core.caching as caching

class Nowhere:
    @classmethod
    def from_function(cls, function, path):
        return None

def forbid(*kinds):
    for kind in kinds:  # what these say when their folder cannot be written to
        kind.from_function = Nowhere.from_function
"""


@pytest.mark.parametrize("nowhere", [False, True], ids=["read-only package", "nowhere to write"])
def test_no_place_for_compiled_code(package, nowhere):
    """A package folder that cannot be written to sends the cache to the user's; without that one there is none."""
    kinds = "caching.InTreeCacheLocator" + (
        ", caching.InTreeCacheLocatorFsAgnostic, caching.UserWideCacheLocator" if nowhere else ""
    )
    code = UNWRITABLE + f"forbid({kinds})" + FIRST_CALL
    user = package / "user"
    expected = ["0"] if nowhere else ["1"]
    run_python(code, package, XDG_CACHE_HOME=str(user), LOCALAPPDATA=str(user), HOME=str(user))
    assert run_python(code, package, XDG_CACHE_HOME=str(user), LOCALAPPDATA=str(user), HOME=str(user)) == expected


def test_without_torchs_threads(package):
    """Where torch's OpenMP library lacks the entry points, Numba's pools serve, the one for a thread at a time too."""
    code = """
    import threading, torch
    from tost.ops import causal_tssa
    from tost.ops.cpu import compile
    compile.TEAM = None
    torch.set_num_threads(2)
    w, t = torch.randn(1, 3000, 3, 20, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    expected, found = causal_tssa(w, t, backend="eager"), []
    calls = [threading.Thread(target=lambda: found.append(causal_tssa(w, t, backend="cpu"))) for _ in range(4)]
    [call.start() for call in calls], [call.join() for call in calls]
    assert len(found) == 4 and all(torch.allclose(y, expected, rtol=1e-11, atol=1e-13) for y in found)
    import numba
    print(numba.threading_layer())
    """
    assert run_python(code, package, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2") == ["workqueue"]


def test_warm():
    seconds = cpu.warm((torch.float32, torch.bfloat16))
    assert len(seconds) == 9 and all(second >= 0 for second in seconds.values())
    assert {"full float32", "causal backward bfloat16", "threads"} <= set(seconds)


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_operators_are_registered_properly(packed):
    """torch.library.opcheck: schemas, shapes when tracing, autograd, functional graphs."""
    w, temperature, g = make_inputs((1 if packed else 2, 70, 2, 3), torch.float32)
    mask = torch.arange(70).expand(w.shape[:2]) % 4 != 1
    bounds = torch.tensor([0, 33, 33, 70]) if packed else None
    sums = [part.requires_grad_() for part in make_state(3 if packed else 2, 2, 3)[:3]]
    bias, decay = torch.zeros(1, 70, 2, requires_grad=True), torch.tensor([0.9, 1.0], requires_grad=True)
    w.requires_grad_(), temperature.requires_grad_()
    ops = torch.ops.tost
    full = (w, temperature, mask, bounds)
    causal = (w, temperature, bias, decay, mask, bounds, *sums)
    torch.library.opcheck(ops.cpu_tssa, full)
    torch.library.opcheck(ops.cpu_causal_tssa, (*causal, True))
    with torch.no_grad():
        torch.library.opcheck(ops.cpu_causal_tssa, (w, temperature, None, None, None, bounds, None, None, None, False))
        _, *statistics = ops.cpu_tssa(*full)
        torch.library.opcheck(ops.cpu_tssa_backward, (g, *full, *statistics))
        _, *ends, membership, states = ops.cpu_causal_tssa(*causal, True)
        torch.library.opcheck(ops.cpu_causal_tssa_backward, (g, *ends, *causal, membership, states, True))


@OPS
def test_compiled_by_inductor_with_any_length(op):
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, dynamic=True)
    for N in (40, 90):
        w, temperature, g = make_inputs((2, N, 3, 4), torch.float32)
        leaves = [w.clone().requires_grad_() for _ in range(2)]
        outputs = [call(leaf, temperature, backend="cpu") for call, leaf in zip((op, compiled), leaves)]
        torch.testing.assert_close(outputs[1], outputs[0])
        gradients = [torch.autograd.grad((y * g).sum(), leaf)[0] for y, leaf in zip(outputs, leaves)]
        torch.testing.assert_close(gradients[1], gradients[0])


@OPS
def test_declines(op):
    w, temperature, _ = make_inputs((2, 5, 3, 4), torch.float32)
    assert cpu.decline(w) is None
    assert "meta" in cpu.decline(w.to("meta"))
    assert "int64" in cpu.decline(w.long())
    with pytest.raises(ValueError, match="vmap"):
        torch.vmap(lambda part: op(part[None], temperature, backend="cpu"))(w)
    with pytest.raises(ValueError, match="forward-mode"):
        torch.func.jvp(lambda part: op(part, temperature, backend="cpu"), (w,), (w,))
    with torch.autograd.forward_ad.dual_level():
        assert "forward-mode" in cpu.decline(w)
    torch.testing.assert_close(  # without a wish for this backend, eager takes over
        torch.vmap(lambda part: op(part[None], temperature)[0])(w), op(w, temperature), rtol=1e-5, atol=1e-6
    )


@OPS
def test_nothing_is_kept_without_gradients(op):
    w, temperature, _ = make_inputs((2, 200, 3, 16), torch.float32)
    w.requires_grad_()
    with torch.no_grad():
        assert op(w, temperature, backend="cpu").grad_fn is None
    assert op(w.detach(), temperature, backend="cpu").grad_fn is None
    _, *rest = torch.ops.tost.cpu_causal_tssa(w.detach(), temperature, *[None] * 7, False)
    assert rest[-1].numel() == 0 and rest[-2].numel() == 0


def test_only_the_end_state_is_differentiated():
    w, temperature, _ = make_inputs((2, 40, 3, 4))
    w.requires_grad_()
    gradients = []
    for backend in ("cpu", "eager"):
        _, state = causal_tssa(w, temperature, return_state=True, backend=backend)
        gradients.append(torch.autograd.grad(state.moment.sin().sum() + state.mass.cos().sum(), w)[0])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("D", [1, 4])
def test_ten_million_tokens_do_not_drift(D):
    """In one call, shared between threads or not, and in chunks: within 1e-5 of float64 at the end."""
    N = 10_000_000
    w = torch.rand(1, N, 1, D, generator=torch.Generator().manual_seed(0)).add_(0.3)
    temperature = torch.ones(1)
    energy = w.double().square().sum((0, 1))
    # one head: Pi = 1, so S = a and P = N
    expected = -w[0, -1].double() / (1 + energy / N)
    whole, end = causal_tssa(w, temperature, return_state=True, backend="cpu")
    assert_near(whole[0, -1], expected, 1e-5, "whole")
    assert_near(end.energy[0], energy, 1e-7, "energy")
    state, parts = None, w.split(999_983, 1)
    for part in parts:
        y, state = causal_tssa(part, temperature, state=state, return_state=True, backend="cpu")
    assert_near(y[0, -1], expected, 1e-5, "in chunks")
    assert_near(state.moment[0], energy, 1e-7, "moment")


def test_tokens_one_by_one_do_not_drift():
    """After a state of ten million tokens a single one still counts: a float32 sum would not move."""
    before = TSSAState(
        torch.full((1, 1, 1), 1e7), torch.full((1, 1, 1), 1e7), torch.full((1, 1), 1e7), torch.tensor([10**7])
    )
    state = TSSAState(*(part.double() for part in before[:3]), before.length)
    w = torch.full((1, 1, 1, 1), 0.3)
    for _ in range(1000):
        _, state = causal_tssa(w, torch.ones(1), state=state, return_state=True, backend="cpu")
    assert_near(state.energy - 1e7, torch.full((1, 1, 1), 1000 * float(w) ** 2).double(), 1e-6, "energy")
    assert_near(state.mass - 1e7, torch.full((1, 1), 1000.0).double(), 1e-9, "mass")


def test_gradients_of_long_sequences_do_not_drift():
    w, temperature, g = make_inputs((1, 300_000, 2, 2), torch.float32)
    agree_with_eager(causal_tssa, w, temperature, g, {})
