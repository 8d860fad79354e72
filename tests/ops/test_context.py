"""A sequence split over processes gives what one process gives: values, gradients, states."""

import pytest
import torch
from torch.testing import assert_close

from tests.ops.context_worker import CASES, inputs
from tests.processes import found_by
from tost.ops import causal_tssa, tssa
from tost.ops.context import context_causal_tssa, context_tssa

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package"),
    pytest.mark.xdist_group("context"),
]


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """What each process found, by the size of the group."""
    return found_by("tests.ops.context_worker", 4, tmp_path_factory.mktemp("processes"))


@pytest.fixture(params=[2, 4])
def group(request, every):
    """(size, what each process of the group found)."""
    return request.param, [part[request.param] for part in every if request.param in part]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_one_process(group, case):
    size, found = group
    tensors, mask, weight = inputs(case, size)
    options = {name: t for name, t in tensors.items() if name not in ("w", "temperature")}
    if case.startswith("full"):
        y = tssa(tensors["w"], tensors["temperature"], mask=mask, backend="eager")
    else:
        y, state = causal_tssa(
            tensors["w"], tensors["temperature"], mask=mask, return_state=True, backend="reference", **options
        )
        for got, expected in zip(found[-1][case, "state"], state):
            assert_close(got, expected.detach(), rtol=1e-9, atol=1e-10)
    assert_close(torch.cat([part[case, "y"] for part in found], 1), y.detach(), rtol=1e-9, atol=1e-10)
    expected = dict(zip(tensors, torch.autograd.grad((y * weight).sum(), list(tensors.values()))))
    got = [part[case, "gradients"] for part in found]
    assert_close(torch.cat([part["w"] for part in got], 1), expected.pop("w"), rtol=1e-8, atol=1e-9)
    for name, gradient in expected.items():
        total = sum(part[name] for part in got if part[name] is not None)
        assert_close(total, gradient, rtol=1e-8, atol=1e-9)


@pytest.fixture()
def lonely():
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_precisions(lonely, dtype, masked):
    random = torch.Generator().manual_seed(0)
    w = torch.randn(2, 65, 3, 8, generator=random).to(dtype)
    t, weight = torch.rand(3, generator=random) + 0.5, torch.randn(2, 65, 3, 8, generator=random)
    mask, decay = torch.rand(2, 65, generator=random) > 0.5, torch.tensor([0.9, 0.99, 1.0])
    if masked:
        w[~mask] = float("nan")  # what is masked may hold anything
    found, expected = [], []
    for into, full, causal, bf16 in (
        (found, context_tssa, context_causal_tssa, torch.autocast("cpu", torch.bfloat16)),
        (expected, tssa, causal_tssa, torch.autocast("cpu", enabled=False)),
    ):
        for function, options in ((full, {}), (causal, {}), (causal, {"decay": decay})):
            x, s = w.clone().requires_grad_(), t.clone().requires_grad_()
            with bf16:
                y = function(x, s, mask=mask if masked else None, **options)
            (y * weight.masked_fill(~mask[..., None, None] & masked, 0)).sum().backward()
            into += [y.detach(), x.grad, s.grad]
    for a, b in zip(found, expected):
        size = float(b.abs().max())
        assert a.dtype == b.dtype and size > 0
        assert_close(
            a, b, rtol=0, atol=size * {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
        )
