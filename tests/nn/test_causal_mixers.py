import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.nn import CausalTSSA
from tost.nn.causal_controls import CausalNone, CausalToken
from tost.nn.causal_mixers import CAUSAL_MIXERS
from tost.nn.causal_softmax import CausalSoftmax, rotate
from tost.nn.order import token_positions
from tost.nn.short_conv import ShortConv

B, N, C, H = 2, 13, 12, 3


def tokens(n=N, seed=1, batch=B):
    return torch.randn(batch, n, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_short_conv_is_the_sum_it_says():
    conv, x = scramble(ShortConv(C, 3).double()), tokens()
    y, tail = conv(x)
    for t in range(N):
        expected = sum(conv.weight[k] * x[:, t - k] for k in range(3) if t >= k)
        assert_close(y[:, t], expected)
    assert torch.equal(tail, x[:, -2:])


def test_short_conv_begins_as_the_identity():
    x = tokens()
    assert torch.equal(ShortConv(C, 4).double()(x)[0], x)


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
def test_short_conv_goes_on_from_its_tail(cut):
    conv, x = scramble(ShortConv(C, 4).double()), tokens()
    first, tail = conv(x[:, :cut])
    second, end = conv(x[:, cut:], tail=tail)
    whole, expected = conv(x)
    assert_close(torch.cat([first, second], 1), whole)
    assert torch.equal(end, expected)


def test_short_conv_passes_over_masked_tokens_wherever_they_are():
    conv, x = scramble(ShortConv(C, 4).double()), tokens()
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[0, [0, 1, 5, 12]] = mask[1, [3, 4, 6]] = False
    y, tail = conv(torch.where(mask[..., None], x, torch.nan), mask)
    for b in range(B):
        alone, end = conv(x[b, mask[b]][None])
        assert_close(y[b, mask[b]], alone[0])
        assert_close(tail[b], end[0])


def test_short_conv_of_width_one_is_refused():
    with pytest.raises(ValueError, match="width of at least 2"):
        ShortConv(C, 1)


def test_softmax_is_the_formula():
    m, x = scramble(CausalSoftmax(C, H).double()), tokens()
    q, k, v = m.in_proj(x).view(B, N, 3, H, C // H).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2)) / (C // H) ** 0.5
    scores = scores.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
    y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert_close(m(x), m.out_proj(y))


def test_rotary_scores_depend_on_distances_alone():
    q, k = tokens(seed=3).view(B, N, H, 4), tokens(seed=4).view(B, N, H, 4)
    places = torch.arange(N)[None]

    def scores(shift):
        return torch.einsum("bnhd,bmhd->bhnm", *(rotate(t, places + shift, 100.0) for t in (q, k)))

    assert_close(scores(0), scores(1000), rtol=0, atol=1e-4)  # angles are float32
    assert not torch.allclose(scores(0), torch.einsum("bnhd,bmhd->bhnm", q, k))
    with pytest.raises(ValueError, match="pairs of features"):
        CausalSoftmax(15, 5, rotary=True)


@pytest.mark.parametrize("name", CAUSAL_MIXERS)
def test_no_token_sees_the_future(name):
    m, x = scramble(CAUSAL_MIXERS[name](C, H).double()), tokens().requires_grad_()
    (gradient,) = torch.autograd.grad(m(x)[:, 5].sum(), x)
    assert gradient[:, :6].any() and not gradient[:, 6:].any()


@pytest.mark.parametrize("name", ["none", "token"])
def test_controls_see_nothing_else(name):
    m, x = scramble(CAUSAL_MIXERS[name](C, H).double()), tokens().requires_grad_()
    (gradient,) = torch.autograd.grad(m(x)[:, 5].sum(), x)
    gradient[:, 5] = 0
    assert not gradient.any()


def test_token_control_is_tssa_at_its_first_token():
    m, x = scramble(CausalToken(C, H).double()), tokens()
    same = CausalTSSA(C, H).double()
    same.load_state_dict(m.state_dict())
    expected = torch.cat([same(x[:, t : t + 1]) for t in range(N)], 1)
    assert_close(m(x), expected)
    assert not torch.allclose(m(x), CausalNone.forward(CausalNone(C, H).double(), x))


@pytest.mark.parametrize("name", CAUSAL_MIXERS)
def test_gradients_reach_everything(name):
    m, x = scramble(CAUSAL_MIXERS[name](C, H, bias=True).double()), tokens().requires_grad_()
    found = gradients(m, m(x), x)
    assert all(g is not None and g.any() for g in found.values()), {k: g is None for k, g in found.items()}


def test_learned_decay_starts_where_told_and_learns():
    fixed = CausalTSSA(C, H, decay=[0.5, 0.9, 0.99])
    learned = CausalTSSA(C, H, decay=[0.5, 0.9, 0.99], learn_decay=True)
    assert_close(learned.survival(), fixed.survival())
    assert_close(learned.log_half_life[0], torch.tensor(0.0), rtol=0, atol=1e-6)  # 0.5: one token
    learned(tokens().float()).square().sum().backward()
    assert bool((learned.log_half_life.grad != 0).all())
    with pytest.raises(ValueError, match="initial values below 1"):
        CausalTSSA(C, H, decay=[0.5, 0.9, 1.0], learn_decay=True)


def test_positions_count_real_tokens_of_their_document():
    x = torch.zeros(1, 8, 1)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 1]], dtype=torch.bool)
    bounds = torch.tensor([0, 3, 3, 8])
    assert token_positions(x, mask, None, torch.tensor([10])).tolist() == [[10, 10, 11, 11, 12, 13, 13, 14]]
    assert token_positions(x, None, bounds, None).tolist() == [[0, 1, 2, 0, 1, 2, 3, 4]]
    assert token_positions(x, mask, bounds, None)[mask].tolist() == [0, 1, 0, 1, 2]


def test_the_softmax_layer_keeps_no_state_of_packed_sequences():
    with pytest.raises(ValueError, match="no state of packed sequences"):
        CausalSoftmax(C, H).double()(tokens(batch=1), cu_seqlens=torch.tensor([0, 5, N]), return_state=True)


def test_softmax_drops_attention_in_training_only():
    m, x = CausalSoftmax(C, H, attn_drop=0.5).double(), tokens()
    assert not torch.equal(m(x), m(x))
    m.eval()
    assert torch.equal(m(x), m(x))
    assert F.relu(m(x)).isfinite().all()
