"""A sequence split over processes gives what one process gives: values, gradients, states."""

import pytest
import torch
from torch.testing import assert_close

from tests.ops.context_worker import CASES, inputs
from tests.processes import found_by
from tost.ops import causal_tssa, tssa

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
