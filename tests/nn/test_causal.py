import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.nn import TSSA, CausalTSSA
from tost.ops import causal_tssa

B, N, C, H = 2, 17, 12, 3


def layer(**options):
    return scramble(CausalTSSA(C, H, **options).double())


def tokens(n=N, seed=1):
    return torch.randn(B, n, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options", [{}, {"max_positions": 20}, {"decay": [0.5, 0.9, 1.0]}], ids=["plain", "bias", "decay"]
)
@pytest.mark.parametrize("cut", [1, 8, 16])
def test_stream_equals_one_pass(options, cut):
    m, x = layer(**options), tokens()
    whole = m(x)
    head, state = m(x[:, :cut], return_state=True)
    tail = m(x[:, cut:], state=state)
    assert_close(torch.cat([head, tail], 1), whole, rtol=0, atol=1e-12)


def test_equals_the_operator_between_the_projections():
    m, x = layer(max_positions=N, decay=0.9, bias=True), tokens()
    w = m.in_proj(x).view(B, N, H, C // H)
    y = causal_tssa(w, m.temperature, position_bias=m.position_bias, decay=m.decay)
    assert_close(m(x), m.out_proj(y.flatten(2)), rtol=0, atol=0)


def test_no_token_sees_a_later_one():
    m, x = layer(), tokens().requires_grad_()
    grad = torch.autograd.grad(m(x)[:, 7].sum(), x)[0]
    assert grad[:, 8:].abs().max() == 0 and grad[:, :8].abs().min() > 0


def test_the_only_token_of_a_sequence_sees_what_the_full_layer_sees():
    causal, full = layer(bias=True), TSSA(C, H).double()
    full.load_state_dict(causal.state_dict())
    x = tokens(1)
    assert_close(causal(x), full(x), rtol=1e-12, atol=1e-12)


def test_left_padding_changes_no_real_token():
    m, x = layer(max_positions=N, decay=0.8), tokens()
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[1, :5] = False
    assert_close(m(x, mask=mask)[1, 5:], m(x[1:, 5:])[0], rtol=1e-12, atol=1e-12)


def test_packed_sequences_come_out_as_if_alone():
    m, x = layer(max_positions=N), tokens()[:1]
    packed = m(x, cu_seqlens=torch.tensor([0, 6, N]))
    assert_close(packed, torch.cat([m(x[:, :6]), m(x[:, 6:])], 1), rtol=1e-12, atol=1e-12)


def test_position_bias_starts_at_zero_and_counts():
    x, plain = tokens(), CausalTSSA(C, H).double()
    biased = CausalTSSA(C, H, max_positions=N).double()
    biased.load_state_dict(plain.state_dict(), strict=False)
    assert_close(biased(x), plain(x), rtol=0, atol=1e-14)
    biased.position_bias.data[0, 3] = 1.0
    moved = (biased(x) - plain(x)).abs().amax(dim=(0, 2))
    assert moved[:3].max() == 0 and moved[3] > 1e-3
    with pytest.raises(ValueError, match=r"position_bias for 18 positions, got 17"):
        biased(tokens(N + 1))


def test_every_parameter_learns():
    m, x = layer(max_positions=N, bias=True), tokens()
    assert all(g is not None and g.abs().max() > 0 for g in gradients(m, m(x)).values())


def test_decay_is_the_constructors_and_checked():
    m = CausalTSSA(C, H, decay=0.9)
    assert_close(m.decay, torch.full((H,), 0.9))
    assert "decay" not in m.state_dict() and "decay" not in dict(m.named_parameters())
    assert m.to(torch.float64).decay.dtype == torch.float64  # moves with the layer
    for wrong in (0.0, 1.5, [0.5, 0.5]):
        with pytest.raises(ValueError, match=r"decay in \(0, 1\]"):
            CausalTSSA(C, H, decay=wrong)


def test_dropouts_and_backend():
    x = tokens()
    m = layer(attn_drop=0.5).train()
    m.out_proj = torch.nn.Identity()
    ratio = m(x) / m.eval()(x)
    assert set(ratio.round(decimals=6).unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(ratio[:, 0], ratio[:, 1])  # one draw a token
    assert (layer(proj_drop=0.5).train()(x) == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert_close(layer(backend="reference")(x), layer(backend="eager")(x), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="CausalTSSA splits dim"):
        CausalTSSA(10, 4)
    with pytest.raises(ValueError, match="CausalTSSA expects tokens"):
        layer()(x[..., 1:])
