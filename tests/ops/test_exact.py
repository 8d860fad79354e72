"""Every backend equals the reference, values and gradients, on odd shapes, all dtypes and all options."""

import pytest
import torch

from tests.ops.common import (
    BACKENDS,
    SHAPES,
    TOLERANCE,
    cases,
    causal_tssa,
    compare,
    dtype_id,
    make_inputs,
    make_state,
    sequence_count,
    shape_id,
    tssa,
    value_and_gradients,
)

OPS = pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
EACH_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


@OPS
@cases(
    ("shape", SHAPES),
    ("dtype", list(TOLERANCE)),
    interpreted=lambda shape, dtype: dtype == torch.float64 or shape == SHAPES[1],
)
def test_dense(op, shape, dtype, backend):
    compare(op, *make_inputs(shape, dtype), backend, {})


def packing_of(kind, N):
    if kind == "none":
        return None
    return torch.tensor([0, 0, N // 3, N // 3 + 1, N, N], dtype=torch.int32)


CASES = [(tssa, ""), *((causal_tssa, extras) for extras in ("", "bias", "decay", "state", "bias-decay-state"))]


@cases(
    ("packing", ["none", "packed"]),
    ("masked", [False, True]),
    ("dtype", [torch.float64, torch.float32]),
    interpreted=lambda packing, masked, dtype: dtype == torch.float64 or (masked and packing == "packed"),
)
@pytest.mark.parametrize(("op", "extras"), CASES, ids=[f"{op.__name__}-{extras}" for op, extras in CASES])
def test_every_option(op, extras, packing, masked, dtype, backend):
    shape = (1 if packing == "packed" else 2, 77, 2, 6)
    w, temperature, g = make_inputs(shape, dtype, seed=3)
    random = torch.Generator().manual_seed(5)
    options = {"cu_seqlens": packing_of(packing, 77)}
    options["mask"] = torch.rand(shape[:2], generator=random) > 0.3 if masked else None
    if "bias" in extras:
        options["position_bias"] = (torch.randn(2, 90, generator=random) * 0.1).to(temperature.dtype)
    if "decay" in extras:
        options["decay"] = torch.tensor([0.5, 0.97], dtype=temperature.dtype)
    if "state" in extras:
        options["state"] = make_state(sequence_count(w, options), 2, 6)
    compare(op, w, temperature, g, backend, options)


@OPS
@cases(
    ("scale", [1e-6, 1e-3, 1e4]),
    ("dtype", [torch.float16, torch.bfloat16, torch.float32]),
    interpreted=lambda scale, dtype: (
        (scale, dtype) in ((1e-6, torch.float32), (1e-3, torch.float16), (1e4, torch.bfloat16))
    ),
)
def test_small_and_large_tokens(op, scale, dtype, backend):
    w, temperature, g = make_inputs((2, 50, 3, 8), dtype, scale=scale / 4)
    w = w.clamp(-6e4, 6e4)
    values, gradients = TOLERANCE[dtype]
    # at 1e-6 the gradient's terms are 1e6 times their sum
    compare(op, w, temperature, g, backend, {}, tolerance=(values, 10 * gradients), floor=1e-12)


@EACH_BACKEND
@OPS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_id)
def test_zeros(op, dtype, backend):
    """Zero features, zero tokens and zero heads: the clamps hold, no gradient flows through a clamped energy."""
    w, temperature, g = make_inputs((2, 40, 3, 8), dtype)
    w[:, :, 1, 2] = 0
    w[:, 5] = 0
    w[1, :, 2] = 0
    w[0, :10] = 0
    compare(op, w, temperature, g, backend, {})
    compare(op, torch.zeros_like(w), temperature, g, backend, {})


@EACH_BACKEND
@OPS
def test_non_contiguous(op, backend):
    w, temperature, g = make_inputs((2, 33, 3, 8))
    heads_first = w.transpose(1, 2).contiguous().transpose(1, 2)
    assert not heads_first.is_contiguous()
    compare(op, heads_first, temperature, g.transpose(1, 2).contiguous().transpose(1, 2), backend, {})


@EACH_BACKEND
@OPS
@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 0, 2, 3), (0, 0, 2, 3)], ids=shape_id)
def test_empty(op, shape, backend):
    compare(op, *make_inputs(shape), backend, {})


@EACH_BACKEND
@OPS
def test_all_false_mask(op, backend):
    w, temperature, g = make_inputs((2, 9, 2, 3))
    w[:] = float("nan")
    mask = torch.zeros(2, 9, dtype=torch.bool)
    found = value_and_gradients(op, w, temperature, g, backend, {"mask": mask})
    for name, part in found.items():
        assert bool((part == 0).all()), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_is_not_masked_full(backend):
    """Frozen memberships: full attention over the prefix agrees at the last token only, and for one token fully."""
    w, temperature, _ = make_inputs((1, 20, 3, 8))
    causal = causal_tssa(w, temperature, backend=backend)
    torch.testing.assert_close(causal[:, :1], tssa(w[:, :1], temperature, backend=backend), rtol=1e-7, atol=0)
    prefix = torch.cat([tssa(w[:, :n], temperature, backend=backend)[:, -1:] for n in range(1, 21)], 1)
    assert (causal - prefix).abs().amax((0, 2, 3))[5:].min() > 1e-4
