"""Derivatives and graphs: gradcheck, second derivatives, compile, export, functional transforms, checkpointing."""

import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.ops.common import BACKENDS, FUSED, QUICK, causal_tssa, make_inputs, make_state, tssa
from tost.ops import TSSAState

EACH_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
OPS = pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
PACKED = torch.tensor([0, 4, 4, 9])


def small(op, seed=0):
    return [part.requires_grad_() for part in make_inputs((1, 9, 2, 3), seed=seed)[:2]]


@pytest.mark.parametrize("backend", QUICK)
@OPS
@pytest.mark.parametrize(
    "options", [{}, {"mask": torch.arange(9)[None] % 3 != 1}, {"cu_seqlens": PACKED}], ids=["plain", "mask", "packed"]
)
def test_gradcheck(op, options, backend):
    w, temperature = small(op)
    assert torch.autograd.gradcheck(lambda w, t: op(w, t, backend=backend, **options), (w, temperature))


@pytest.mark.parametrize("backend", QUICK)
@pytest.mark.parametrize("cu_seqlens", [None, PACKED], ids=["dense", "packed"])
def test_gradcheck_states(cu_seqlens, backend):
    w, temperature = small(causal_tssa)
    state = make_state(1 if cu_seqlens is None else 3, 2, 3)
    bias = (torch.randn(2, 12).double() * 0.1).requires_grad_()
    decay = torch.tensor([0.7, 0.9]).double().requires_grad_()
    sums = [part.requires_grad_() for part in state[:3]]

    def call(w, t, bias, decay, *sums):
        y, end = causal_tssa(
            w,
            t,
            position_bias=bias,
            decay=decay,
            cu_seqlens=cu_seqlens,
            state=TSSAState(*sums, state.length),
            return_state=True,
            backend=backend,
        )
        return y, *end[:3]

    assert torch.autograd.gradcheck(call, (w, temperature, bias, decay, *sums))


@OPS
@pytest.mark.parametrize("options", [{}, {"cu_seqlens": PACKED}], ids=["plain", "packed"])
def test_eager_has_second_derivatives(op, options):
    w, temperature = small(op)
    assert torch.autograd.gradgradcheck(lambda w, t: op(w, t, backend="eager", **options), (w, temperature))


@OPS
def test_eager_has_second_derivatives_over_blocks(op, monkeypatch):
    """What is saved, and what is between blocks, must not cut the second derivative."""
    monkeypatch.setattr("tost.ops.segments.BLOCK", 2 * 3 * 32)
    w, temperature, g = make_inputs((1, 70, 2, 3))
    w.requires_grad_()

    def second(backend):
        first = torch.autograd.grad((op(w, temperature, backend=backend) * g).sum(), w, create_graph=True)[0]
        return torch.autograd.grad((first * g).sum(), w)[0]

    torch.testing.assert_close(second("eager"), second("reference"), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", FUSED)
@OPS
def test_fused_backends_say_that_they_have_no_second_derivative(op, backend):
    w, temperature = small(op)
    first = torch.autograd.grad(op(w, temperature, backend=backend).sum(), w, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="eager"):
        torch.autograd.grad(first.sum(), w)


@EACH_BACKEND
@OPS
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_fullgraph(op, dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for N in (33, 70):
        w, temperature, g = make_inputs((2, N, 2, 4), torch.float32)
        mask = torch.rand(2, N) > 0.2
        w.requires_grad_()
        expected = op(w, temperature, mask=mask, backend=backend)
        y = compiled(w, temperature, mask=mask, backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
        found, wanted = (torch.autograd.grad((out * g).sum(), w)[0] for out in (y, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_first_call_of_a_process_may_be_a_compiled_one():
    """A backend is imported at its first use, and nothing can be imported in the middle of a graph."""
    code = (
        "import sys, torch; from tost.ops import tssa\n"
        "for backend in [*sys.argv[1:], None]:\n"
        "    call = torch.compile(tssa, fullgraph=True, backend='aot_eager')\n"
        "    assert call(torch.ones(1, 2, 1, 2), torch.ones(1), backend=backend).shape == (1, 2, 1, 2)\n"
    )
    backends = [name for name in BACKENDS if name != "triton"]
    done = subprocess.run([sys.executable, "-c", code, *backends], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@EACH_BACKEND
def test_compile_fullgraph_with_everything(backend):
    torch._dynamo.reset()
    w, temperature, g = make_inputs((1, 9, 2, 3))
    options = {
        "position_bias": torch.randn(2, 20).double(),
        "decay": torch.tensor([0.5, 0.9]).double(),
        "cu_seqlens": PACKED,
        "state": make_state(3, 2, 3),
        "return_state": True,
        "backend": backend,
    }
    y, state = torch.compile(causal_tssa, fullgraph=True, backend="aot_eager")(w, temperature, **options)
    expected, end = causal_tssa(w, temperature, **options)
    torch.testing.assert_close(y, expected)
    for found, wanted in zip(state, end):
        torch.testing.assert_close(found, wanted)


@OPS
def test_export_holds_standard_operators_only(op):
    class Layer(torch.nn.Module):
        def forward(self, w, temperature):
            return op(w, temperature)

    w, temperature, _ = make_inputs((2, 33, 3, 4), torch.float32)
    tokens = torch.export.Dim("tokens", min=2, max=4096)
    exported = torch.export.export(Layer(), (w, temperature), dynamic_shapes=({1: tokens}, None))
    assert not any("tost" in str(node.target) for node in exported.graph.nodes)
    for N in (33, 64, 200):
        w, temperature, _ = make_inputs((2, N, 3, 4), torch.float32)
        torch.testing.assert_close(exported.module()(w, temperature), op(w, temperature), rtol=1e-5, atol=1e-6)


@EACH_BACKEND
@OPS
def test_functional_gradient(op, backend):
    w, temperature, g = make_inputs((2, 20, 3, 4))
    found = torch.func.grad(lambda w: (op(w, temperature, backend=backend) * g).sum())(w)
    w.requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad((op(w, temperature, backend=backend) * g).sum(), w)[0])


@EACH_BACKEND
@OPS
@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "reentrant"])
def test_activation_checkpointing(op, reentrant, backend):
    w, temperature, g = make_inputs((2, 20, 3, 4))
    w.requires_grad_()
    expected = torch.autograd.grad((op(w, temperature, backend=backend) * g).sum(), w)[0]
    y = checkpoint(lambda w: op(w, temperature, backend=backend), w, use_reentrant=reentrant)
    (y * g).sum().backward()
    torch.testing.assert_close(w.grad, expected)


@EACH_BACKEND
@OPS
def test_autocast_keeps_wide_statistics(op, backend):
    w, temperature, _ = make_inputs((2, 40, 3, 8), torch.float32)
    expected = op(w, temperature, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(op(w, temperature, backend=backend), expected, rtol=1e-5, atol=1e-7)


@EACH_BACKEND
@OPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_saved_for_backward(op, dtype, backend):
    """Beside w the backward keeps at most a tenth of w's bytes."""
    w, temperature, _ = make_inputs((2, 1024, 6, 64), dtype)
    w.requires_grad_()
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        op(w, temperature, backend=backend)
    saved.pop(w.untyped_storage().data_ptr(), None)
    assert sum(saved.values()) <= 0.1 * w.numel() * w.element_size()
