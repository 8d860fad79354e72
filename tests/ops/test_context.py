"""A sequence split over processes gives what one process gives: values, gradients, states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.ops.context_worker import CASES, inputs
from tost.ops import causal_tssa, tssa

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package"),
    pytest.mark.xdist_group("context"),
]


@pytest.fixture(scope="module", params=[2, 4])
def group(request, tmp_path_factory):
    """(size, what each process found)."""
    size, folder = request.param, tmp_path_factory.mktemp(f"group{request.param}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.ops.context_worker"]
    processes = [
        subprocess.Popen([*command, str(rank), str(size), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    for process in processes:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error.decode()[-2000:]
    return size, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


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
