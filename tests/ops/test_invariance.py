"""Invariances of the contract: padding, packing, splits, causality, order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.common import BACKENDS, assert_near, cases, causal_tssa, make_inputs, make_state, tssa
from tost.ops import TSSAState

EACH_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
OPS = pytest.mark.parametrize("op", [tssa, causal_tssa], ids=lambda op: op.__name__)
EXACT = {"rtol": 1e-9, "atol": 1e-12}
DECAY = torch.tensor([0.6, 0.95, 1.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradient(y, w, g):
    return torch.autograd.grad((y * g).sum(), w)[0]


@EACH_BACKEND
@OPS
@pytest.mark.parametrize("where", ["left", "right", "inner"])
def test_padding_changes_nothing(op, where, backend):
    w, temperature, g = make_inputs((2, 30, 3, 4))
    keep = torch.zeros(45, dtype=torch.bool)
    keep[{"left": slice(15, 45), "right": slice(0, 30), "inner": torch.randperm(45)[:30].sort().values}[where]] = True
    options = {"position_bias": torch.randn(3, 45).double() * 0.1, "decay": DECAY} if op is causal_tssa else {}

    alone = w.clone().requires_grad_()
    expected = op(alone, temperature, backend=backend, **options)
    padded = torch.full((2, 45, 3, 4), float("nan"), dtype=torch.float64)
    padded[:, keep] = w
    padded.requires_grad_()
    y = op(padded, temperature, mask=keep.expand(2, 45), backend=backend, **options)

    torch.testing.assert_close(y[:, keep], expected, **EXACT)
    assert bool((y[:, ~keep] == 0).all())
    padded_g = torch.zeros(2, 45, 3, 4, dtype=torch.float64)
    padded_g[:, keep] = g
    padded_g[:, ~keep] = 1.0  # cotangents of masked outputs go nowhere
    found = gradient(y, padded, padded_g)
    torch.testing.assert_close(found[:, keep], gradient(expected, alone, g), **EXACT)
    assert bool((found[:, ~keep] == 0).all())


@EACH_BACKEND
@OPS
def test_packed_equals_separate(op, backend):
    lengths = [5, 1, 0, 40, 17]
    w, temperature, g = make_inputs((1, sum(lengths), 3, 4))
    options = {"position_bias": torch.randn(3, 45).double() * 0.1, "decay": DECAY} if op is causal_tssa else {}
    packed = w.clone().requires_grad_()
    y = op(packed, temperature, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0), backend=backend, **options)
    alone = w.clone().requires_grad_()
    expected = torch.cat([op(part, temperature, backend=backend, **options) for part in alone.split(lengths, 1)], 1)
    torch.testing.assert_close(y, expected, **EXACT)
    torch.testing.assert_close(gradient(y, packed, g), gradient(expected, alone, g), **EXACT)


@cases(("cut", [0, 1, 31, 32, 33, 62, 63]), interpreted=lambda cut: cut in (0, 1, 33))
@pytest.mark.parametrize("decay", [None, DECAY], ids=["paper", "decay"])
def test_stream_equals_one_pass(cut, decay, backend):
    w, temperature, g = make_inputs((1, 63, 3, 8))
    bias = torch.randn(3, 63).double() * 0.1
    mask = torch.rand(1, 63, generator=torch.Generator().manual_seed(0)) > 0.2
    options = {"position_bias": bias, "decay": decay, "return_state": True, "backend": backend}
    w.requires_grad_()
    whole, end = causal_tssa(w, temperature, mask=mask, **options)
    head, state = causal_tssa(w[:, :cut], temperature, mask=mask[:, :cut], **options)
    tail, after = causal_tssa(w[:, cut:], temperature, mask=mask[:, cut:], state=state, **options)
    joined = torch.cat([head, tail], 1)
    torch.testing.assert_close(joined, whole, **EXACT)
    for name, found, expected in zip(TSSAState._fields, after, end):
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}", **EXACT)
    torch.testing.assert_close(gradient(joined, w, g), gradient(whole, w, g), **EXACT)


@EACH_BACKEND
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_one_token_at_a_time(dtype, backend):
    w, temperature, _ = make_inputs((2, 40, 3, 8), dtype)
    whole, end = causal_tssa(w, temperature, decay=DECAY.to(temperature.dtype), return_state=True, backend=backend)
    state, outputs = None, []
    for n in range(40):
        y, state = causal_tssa(
            w[:, n : n + 1],
            temperature,
            decay=DECAY.to(temperature.dtype),
            state=state,
            return_state=True,
            backend=backend,
        )
        outputs.append(y)
    limit = 1e-12 if dtype == torch.float64 else 1e-6
    assert_near(torch.cat(outputs, 1), whole, limit, "y")
    for name, found, expected in zip(TSSAState._fields, state, end):
        assert_near(found, expected, limit, name)


@EACH_BACKEND
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_split_over_packed_calls(backend, data):
    """Random lengths, cut at a random token of each sequence, the second call going on from the first one's states."""
    lengths = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    cuts = [data.draw(st.integers(0, length)) for length in lengths]
    w, temperature, _ = make_inputs((1, sum(lengths), 3, 4))
    options = {"decay": DECAY, "backend": backend, "return_state": True}
    whole, end = causal_tssa(w, temperature, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0), **options)
    parts = w.split(lengths, 1)
    heads = torch.cat([part[:, :cut] for part, cut in zip(parts, cuts)], 1)
    tails = torch.cat([part[:, cut:] for part, cut in zip(parts, cuts)], 1)
    y_head, state = causal_tssa(heads, temperature, cu_seqlens=torch.tensor([0, *cuts]).cumsum(0), **options)
    rest = [length - cut for length, cut in zip(lengths, cuts)]
    y_tail, after = causal_tssa(
        tails, temperature, cu_seqlens=torch.tensor([0, *rest]).cumsum(0), state=state, **options
    )
    joined = [part for pair in zip(y_head.split(cuts, 1), y_tail.split(rest, 1)) for part in pair]
    torch.testing.assert_close(torch.cat(joined, 1), whole, **EXACT)
    for found, expected in zip(after, end):
        torch.testing.assert_close(found, expected, **EXACT)


@EACH_BACKEND
def test_prefix_causality(backend):
    """No token hears of later ones: neither its value nor the gradient of earlier outputs to it."""
    w, temperature, g = make_inputs((1, 50, 3, 4))
    w.requires_grad_()
    y = causal_tssa(w, temperature, decay=DECAY, backend=backend)
    changed = w.detach().clone()
    changed[:, 30:] = 1e3
    torch.testing.assert_close(
        causal_tssa(changed, temperature, decay=DECAY, backend=backend)[:, :30], y[:, :30], **EXACT
    )
    g[:, 30:] = 0
    assert bool((gradient(y, w, g)[:, 30:] == 0).all())


@EACH_BACKEND
def test_full_is_permutation_equivariant(backend):
    w, temperature, _ = make_inputs((2, 37, 3, 4))
    order = torch.randperm(37)
    y = tssa(w, temperature, backend=backend)
    torch.testing.assert_close(tssa(w[:, order], temperature, backend=backend), y[:, order], **EXACT)


@EACH_BACKEND
@OPS
def test_one_head_owns_everything(op, backend):
    """H = 1: the membership is 1 whatever the temperature, whose gradient is then 0."""
    w, temperature, g = make_inputs((2, 21, 1, 6))
    temperature.requires_grad_()
    y = op(w, temperature, backend=backend)
    torch.testing.assert_close(op(w, temperature * 7, backend=backend), y, **EXACT)
    assert gradient(y, temperature, g).abs().max() < 1e-12


@EACH_BACKEND
def test_momentum_form_is_decay(backend):
    """The article's m s + (1 - m) w^2: only ratios of the sums enter, so it is the operator with decay m."""
    w, temperature, _ = make_inputs((1, 30, 2, 4))
    keep = 0.9
    a, S, P = torch.zeros(2, 4).double(), torch.zeros(2, 4).double(), torch.zeros(2).double()
    expected = []
    for token in w[0]:
        p = token.square()
        a = keep * a + (1 - keep) * p
        # the gate sees w^2 / a: with the momentum form's a it is 1 / (1 - m) times larger
        pi = torch.softmax(temperature * (1 - keep) * (p / a).sum(-1), 0)
        P = keep * P + (1 - keep) * pi
        S = keep * S + (1 - keep) * pi[:, None] * p
        expected.append(-pi[:, None] * token / (1 + S / P[:, None]))
    y = causal_tssa(w, temperature, decay=torch.full((2,), keep).double(), backend=backend)
    torch.testing.assert_close(y[0], torch.stack(expected), rtol=1e-6, atol=1e-8)


@EACH_BACKEND
def test_states_select_and_roll_back(backend):
    w, temperature, _ = make_inputs((3, 20, 3, 4))
    options = {"return_state": True, "backend": backend}
    _, state = causal_tssa(w[:, :10], temperature, **options)
    kept = state.clone()
    expected, _ = causal_tssa(w[:, 10:], temperature, state=state, **options)
    order = torch.tensor([2, 0, 0])
    y, _ = causal_tssa(w[order, 10:], temperature, state=state.select(order), **options)
    torch.testing.assert_close(y, expected[order], **EXACT)
    again, _ = causal_tssa(w[:, 10:], temperature, state=state, **options)  # a call leaves its incoming state alone
    torch.testing.assert_close(again, expected, **EXACT)
    for before, after in zip(kept, state):
        assert torch.equal(before, after)


def test_state_saves_as_safetensors(tmp_path):
    from safetensors.torch import load_file, save_file

    state = make_state(2, 3, 4)
    save_file(state._asdict(), tmp_path / "state.safetensors")
    loaded = TSSAState(**load_file(tmp_path / "state.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(state, loaded))
    assert state.nbytes == 2 * (3 * (2 * 4 + 1) * 8 + 8)
