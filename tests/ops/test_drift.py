"""Long sums do not drift: float32 statistics after ten million tokens against float64."""

# N tokens, H heads, D features per head

import pytest
import torch

from tests.ops.common import QUICK, causal_tssa

N, H, D = 10_000_000, 2, 1
LIMIT = 1e-5
# for Triton's interpreter test_triton.py starts from a state of as many tokens instead
EACH_BACKEND = pytest.mark.parametrize("backend", QUICK)


@pytest.fixture(scope="module")
def stream():
    """Ten million tokens, and their outputs and final state in float64."""
    random = torch.Generator().manual_seed(0)
    w = torch.rand(1, N, H, D, generator=random) + 0.5
    expected, end = causal_tssa(w.double(), torch.ones(H).double(), return_state=True)
    return w, expected, end


def worst(found, expected):
    return ((found.double() - expected).abs() / expected.abs()).max().item()


@pytest.mark.xdist_group("long")
@EACH_BACKEND
def test_one_call(stream, backend):
    w, expected, end = stream
    y, state = causal_tssa(w, torch.ones(H), return_state=True, backend=backend)
    assert worst(y, expected) < LIMIT
    assert max(worst(found, wanted) for found, wanted in zip(state[:3], end[:3])) < LIMIT


@pytest.mark.xdist_group("long")
@EACH_BACKEND
def test_calls_of_any_size(stream, backend):
    """Chunks of uneven size, the last thousand tokens one by one: there a float32 state would stand still."""
    w, expected, end = stream
    state, start = None, 0
    for size in (1, 999, 9, 4_999_999, 33, N - 5_002_041, *[1] * 1000):
        y, state = causal_tssa(
            w[:, start : start + size], torch.ones(H), state=state, return_state=True, backend=backend
        )
        assert worst(y, expected[:, start : start + size]) < LIMIT
        start += size
    assert start == N
    assert max(worst(found, wanted) for found, wanted in zip(state[:3], end[:3])) < LIMIT
