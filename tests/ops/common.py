"""What the operator's tests share: inputs, tolerances, the comparison with the reference."""

# B batch, N tokens, H heads, D features per head, S sequences

import functools
import importlib.util
import itertools

import pytest
import torch

import tost.ops
from tost.ops import TSSAState

TRITON = ("triton",) if importlib.util.find_spec("triton") else ()  # it exists for Linux and Windows only
BACKENDS = ("eager", "cpu", *TRITON)
FUSED = ("cpu", *TRITON)
# what calls an operator thousands of times, or with millions of tokens, is not for an interpreter
QUICK = tuple(name for name in BACKENDS if name != "triton" or torch.cuda.is_available())
SHAPES = [(1, 1, 1, 1), (2, 63, 3, 8), (1, 100, 2, 5), (3, 65, 1, 16), (2, 129, 3, 17), (20, 7, 4, 3), (1, 200, 2, 64)]

# relative to the largest entry, per dtype of w: values, gradients; half types: one rounding of y, and of g and dw
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (3e-6, 2e-5),
    torch.float16: (1e-3, 3e-3),
    torch.bfloat16: (8e-3, 2e-2),
}


def cases(*names, interpreted):
    """parametrize over backends and further values (name, values); of these Triton's interpreter, which is slow, runs
    those for which `interpreted` is true."""
    every = [
        (backend, *values)
        for backend in BACKENDS
        for values in itertools.product(*(values for _, values in names))
        if backend in QUICK or interpreted(*values)
    ]
    return pytest.mark.parametrize(("backend", *(name for name, _ in names)), every, ids=_words)


def _words(value):
    if isinstance(value, torch.dtype):
        return dtype_id(value)
    return shape_id(value) if isinstance(value, tuple) and len(value) == 4 else None


def where_the_backend_runs(op):
    """The operator on CPU tensors, whatever its backend: with a GPU, "triton" is called there."""

    @functools.wraps(op)
    def call(*inputs, backend=None, **options):
        if backend != "triton" or not torch.cuda.is_available():
            return op(*inputs, backend=backend, **options)
        return _moved(op(*_moved(inputs, "cuda"), backend=backend, **_moved(options, "cuda")), "cpu")

    return call


def _moved(value, device):
    if torch.is_tensor(value) or isinstance(value, TSSAState):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [_moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


tssa = where_the_backend_runs(tost.ops.tssa)
causal_tssa = where_the_backend_runs(tost.ops.causal_tssa)


def shape_id(shape):
    return "B{}-N{}-H{}-D{}".format(*shape)


def dtype_id(dtype):
    return str(dtype).removeprefix("torch.")


def make_inputs(shape, dtype=torch.float64, seed=0, scale=1.0):
    """w [B, N, H, D] whose heads and tokens differ in size, temperature [H], and a cotangent like w."""
    B, N, H, D = shape
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=random, dtype=torch.float64)
    w = (
        w
        * torch.linspace(0.5, 2, H, dtype=torch.float64)[:, None]
        * (1 + torch.rand(B, N, 1, 1, generator=random).double())
    )
    temperature = 0.5 + torch.rand(H, generator=random, dtype=torch.float64) * 2
    g = torch.randn(shape, generator=random, dtype=torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (w * scale).to(dtype), temperature.to(wide), g.to(dtype)


def make_state(S, H, D, seed=1):
    random = torch.Generator().manual_seed(seed)
    sums = [torch.rand(shape, generator=random, dtype=torch.float64) * 5 for shape in ((S, H, D), (S, H, D), (S, H))]
    return TSSAState(*sums, torch.arange(S) % 3)


def sequence_count(w, options):
    packed = options.get("cu_seqlens")
    return w.shape[0] if packed is None else packed.numel() - 1


def value_and_gradients(op, w, temperature, g, backend, options):
    """Everything a call gives, by name: outputs, gradients to every floating input (through outgoing states too)."""
    leaves = {"w": w.clone().requires_grad_(), "temperature": temperature.clone().requires_grad_()}
    kwargs = dict(options)
    for name in ("position_bias", "decay"):
        if kwargs.get(name) is not None:
            leaves[name] = kwargs[name] = kwargs[name].clone().requires_grad_()
    if kwargs.get("state") is not None:
        sums = [part.clone().requires_grad_() for part in kwargs["state"][:3]]
        leaves.update(zip(("state.energy", "state.moment", "state.mass"), sums))
        kwargs["state"] = TSSAState(*sums, kwargs["state"].length)
    if op is tssa:
        y, stats = tssa(leaves["w"], leaves["temperature"], backend=backend, return_stats=True, **kwargs)
        outputs = {"y": y, **{f"stats.{name}": part for name, part in stats._asdict().items()}}
        loss = (y.double() * g.double()).sum()
    else:
        y, end = causal_tssa(leaves["w"], leaves["temperature"], backend=backend, return_state=True, **kwargs)
        outputs = {"y": y, **{f"end.{name}": part for name, part in end._asdict().items()}}
        loss = (y.double() * g.double()).sum()
        for k, part in enumerate(end[:3]):
            loss = loss + 0.01 * (part * torch.linspace(-1, 1 + k, part.numel()).view_as(part)).sum()
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    else:  # no token, no history
        gradients = [torch.zeros_like(leaf) for leaf in leaves.values()]
    outputs.update({f"d {name}": gradient for name, gradient in zip(leaves, gradients)})
    assert y.dtype == w.dtype
    return {name: part.detach() for name, part in outputs.items()}


def assert_near(found, expected, tolerance, what, floor=1e-6):
    """Largest error over the largest entry, or over a floor where that is zero; one subnormal step is forgiven."""
    numbers = torch.finfo(found.dtype) if found.is_floating_point() else torch.finfo(torch.float64)
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if found.numel() == 0:
        return
    assert bool(found.isfinite().all()), f"{what}: not finite"
    step = numbers.smallest_normal * numbers.eps
    error = max((found - expected).abs().max().item() - step, 0) / max(expected.abs().max().item(), floor)
    assert error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}"


def compare(op, w, temperature, g, backend, options, tolerance=None, floor=1e-6):
    """Values and gradients of `backend` against the reference on the same rounded inputs in float64."""
    values, gradients = tolerance or TOLERANCE[w.dtype]
    found = value_and_gradients(op, w, temperature, g, backend, options)
    wide = {
        name: part.double() if torch.is_tensor(part) and part.is_floating_point() else part
        for name, part in options.items()
    }
    expected = value_and_gradients(op, w.double(), temperature.double(), g.double(), "reference", wide)
    for name, part in expected.items():
        if not name.startswith("d "):
            limit = values
        elif name in ("d w", "d state.energy", "d state.moment", "d state.mass"):
            limit = gradients
        else:  # sums over all tokens of terms of either sign
            limit = 10 * gradients
        assert_near(found[name], part, limit, f"{backend} {op.__name__} {name}", floor)
