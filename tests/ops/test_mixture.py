"""Token statistics of a richer mixture: eager against the definition, and the invariances of the contract."""

import pytest
import torch
from torch.testing import assert_close

from tests.ops.common import SHAPES, TOLERANCE, dtype_id, make_inputs, shape_id
from tost.ops import MixtureState, causal_mixture, causal_tssa
from tost.ops.scan import decayed_sum, running_sum


def inputs(shape, dtype=torch.float64):
    w, temperature, g = make_inputs(shape, dtype)
    return w, make_inputs(shape, dtype, seed=5)[0] - 0.3, temperature, g


def options_of(name, shape):
    B, N, H, D = shape
    random = torch.Generator().manual_seed(2)
    wide = {"dtype": torch.float64, "generator": random}
    table = 0.1 * torch.randn(H, N + 3, **wide)
    decay = 0.5 + 0.5 * torch.rand(H, **wide)
    mask = torch.rand(B, N, generator=random) > 0.3
    sums = [torch.rand(s, **wide) * 5 for s in ((B, H, D), (B, H, D), (B, H, D), (B, H))]
    state = MixtureState(sums[0], sums[1] - 2, sums[2] + 5, sums[3] + 1, torch.arange(B) % 3)
    square = torch.randn(B, H, D, D, **wide)
    return {
        "plain": {},
        "decay": {"decay": decay},
        "all": {"decay": decay, "mask": mask, "position_bias": table, "state": state},
        "uncentred": {"decay": decay, "state": state, "centred": False},
        "full": {"decay": decay, "state": state._replace(second=5 * square @ square.mT + 9), "full": True},
        "full-uncentred": {"mask": mask, "full": True, "centred": False},
    }[name]


def value_and_gradients(w, v, temperature, g, backend, options):
    leaves = {"w": w, "v": v, "temperature": temperature}
    leaves |= {k: options[k] for k in ("decay", "position_bias") if k in options}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    given = {**options, **{k: leaves[k] for k in ("decay", "position_bias") if k in options}}
    if "state" in options:
        sums = {f"state.{i}": part.clone().requires_grad_() for i, part in enumerate(options["state"][:4])}
        leaves |= sums
        given["state"] = MixtureState(*sums.values(), options["state"].length)
    y, end = causal_mixture(
        leaves["w"], leaves["v"], leaves["temperature"], return_state=True, backend=backend, **given
    )
    loss = (y.double() * g.double()).sum() + sum((part * part.detach().cos()).sum() for part in end[:4])
    return {"y": y, **end._asdict()}, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


def close(ours, theirs, tolerance, what):
    scale = theirs.double().abs().max().clamp(min=1e-3)
    error = (ours.double() - theirs.double()).abs().max() / scale
    assert error <= tolerance, f"{what}: {float(error):.1e}"


@pytest.mark.parametrize("name", ["plain", "decay", "all", "uncentred", "full", "full-uncentred"])
@pytest.mark.parametrize("shape", SHAPES[:-2], ids=shape_id)
def test_eager_is_the_definition(shape, name):
    w, v, temperature, g = inputs(shape)
    options = options_of(name, shape)
    if name == "all":  # a temperature for every token
        temperature = temperature * torch.linspace(0.5, 2, shape[1], dtype=torch.float64)[None, :, None]
    values, gradients = zip(*(value_and_gradients(w, v, temperature, g, b, options) for b in ("eager", "reference")))
    for key in values[0]:
        close(values[0][key], values[1][key], 1e-11, key)
    for key in gradients[0]:
        close(gradients[0][key], gradients[1][key], 1e-9, f"gradient of {key}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=dtype_id)
def test_narrow_types(dtype):
    w, v, temperature, g = inputs((2, 129, 5, 17), dtype)
    options = {"decay": torch.tensor([0.5, 0.9, 0.99, 1.0, 0.7])}
    values, gradients = zip(*(value_and_gradients(w, v, temperature, g, b, options) for b in ("eager", "reference")))
    assert values[0]["y"].dtype == dtype
    close(values[0]["y"], values[1]["y"], TOLERANCE[dtype][0], "y")
    for key in ("w", "v"):  # autograd's terms cancel at the first tokens, where the closed form's don't
        close(gradients[0][key], gradients[1][key], max(TOLERANCE[dtype][1], 2e-4), f"gradient of {key}")


@pytest.mark.parametrize("cut", [1, 31, 32, 33, 62])
@pytest.mark.parametrize("decay", [None, [0.5, 0.9, 1.0]])
def test_stream_equals_one_pass(cut, decay):
    w, v, temperature, _ = inputs((2, 63, 3, 8))
    decay = None if decay is None else torch.tensor(decay, dtype=torch.float64)
    whole, end = causal_mixture(w, v, temperature, decay=decay, return_state=True)
    first, state = causal_mixture(w[:, :cut], v[:, :cut], temperature, decay=decay, return_state=True)
    second, last = causal_mixture(w[:, cut:], v[:, cut:], temperature, decay=decay, state=state, return_state=True)
    assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-12)
    for one, other in zip(last, end):
        assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_packed_sequences_are_separate_calls():
    w, v, temperature, _ = inputs((1, 40, 3, 4))
    bounds = torch.tensor([0, 5, 5, 6, 40])
    decay = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
    packed, end = causal_mixture(w, v, temperature, decay=decay, cu_seqlens=bounds, return_state=True)
    for s, (a, b) in enumerate(zip(bounds, bounds[1:])):
        alone, state = causal_mixture(w[:, a:b], v[:, a:b], temperature, decay=decay, return_state=True)
        assert_close(packed[:, a:b], alone, rtol=0, atol=1e-12)
        assert_close(end.second[s], state.second[0], rtol=1e-12, atol=1e-12)


def test_uncentred_with_its_own_values_is_the_published_operator():
    w, _, temperature, _ = inputs((2, 40, 3, 8))
    decay = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
    y = causal_mixture(w, w, temperature, decay=decay, centred=False)
    assert_close(y, causal_tssa(w, temperature, decay=decay, backend="reference"), rtol=0, atol=1e-12)


def test_uncut_of_one_feature_is_the_cut_one():
    w, v, temperature, _ = inputs((2, 40, 3, 1))
    assert_close(causal_mixture(w, v, temperature, full=True), causal_mixture(w, v, temperature), rtol=0, atol=1e-12)


def test_equal_values_have_nothing_left_after_their_mean():
    w, _, temperature, _ = inputs((2, 20, 3, 4))
    y = causal_mixture(w, torch.full_like(w, 3.0), temperature)
    assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-6)  # not exactly: the mass has its 1e-8


@pytest.mark.parametrize("N", [1, 2, 31, 32, 33, 1100])
def test_decayed_sum_is_the_gated_sum(N):
    x = torch.randn(2, N, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(N))
    base, decay = torch.ones(2, 3, 4, dtype=torch.float64), torch.tensor([0.3, 0.99, 1.0], dtype=torch.float64)
    for ours, theirs in zip(decayed_sum(x, decay, base), running_sum(x, decay.expand(2, N, 3), base)):
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_bad_calls_are_told():
    w, v, temperature, _ = inputs((2, 5, 3, 4))
    with pytest.raises(ValueError, match="expects values like w"):
        causal_mixture(w, v[:, :4], temperature)
    with pytest.raises(ValueError, match="has the backends reference, eager, got 'cpu'"):
        causal_mixture(w, v, temperature, backend="cpu")
    with pytest.raises(ValueError, match="expects a MixtureState"):
        _, state = causal_mixture(w, v, temperature, return_state=True)
        causal_mixture(w[:1], v[:1], temperature, state=state)
