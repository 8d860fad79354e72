import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.bench.published_vision import PublishedAttention
from tost.nn import TSSA
from tost.ops import tssa

B, N, C, H = 2, 13, 24, 4


def layer(**options):
    return scramble(TSSA(C, H, **options).double())


def tokens(*shape, seed=1):
    return torch.randn(shape or (B, N, C), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def published(ours):
    theirs = PublishedAttention(C, H).double()
    theirs.load_state_dict(
        {
            "qkv.weight": ours.in_proj.weight,
            "qkv.bias": ours.in_proj.bias,
            "temp": ours.temperature[:, None],
            "to_out.0.weight": ours.out_proj.weight,
            "to_out.0.bias": ours.out_proj.bias,
        }
    )
    return theirs


def test_equals_the_published_layer_values_and_gradients():
    ours, x = layer(), tokens().requires_grad_()
    theirs = published(ours)
    y, z = ours(x), theirs(x)
    assert_close(y, z, rtol=1e-12, atol=1e-12)
    mine, others = gradients(ours, y, x), gradients(theirs, z, x)
    pairs = {
        "in_proj.weight": "qkv.weight",
        "in_proj.bias": "qkv.bias",
        "out_proj.weight": "to_out.0.weight",
        "out_proj.bias": "to_out.0.bias",
        "0": "0",
    }
    for a, b in pairs.items():
        assert_close(mine[a], others[b], rtol=1e-10, atol=1e-12)
    assert_close(mine["temperature"], others["temp"].flatten(), rtol=1e-10, atol=1e-12)


def test_in_proj_gives_w_and_out_proj_takes_y():
    m, x = layer(), tokens()
    y = tssa(m.in_proj(x).view(B, N, H, C // H), m.temperature)
    assert_close(m(x), m.out_proj(y.flatten(2)), rtol=0, atol=0)


def test_backend_reaches_the_operator():
    x = tokens()
    assert_close(layer(backend="reference")(x), layer(backend="eager")(x), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="unknown backend"):
        layer(backend="abacus")(x)


def test_packed_sequences_come_out_as_if_alone():
    m, x = layer(), tokens(1, 11, C)
    packed = m(x, cu_seqlens=torch.tensor([0, 4, 5, 11]))
    alone = torch.cat([m(x[:, :4]), m(x[:, 4:5]), m(x[:, 5:])], dim=1)
    assert_close(packed, alone, rtol=1e-12, atol=1e-12)


def test_attention_dropout_is_one_draw_for_all_tokens_and_unbiased():
    m = layer(attn_drop=0.25).train()
    m.out_proj = torch.nn.Identity()
    x = tokens()
    clean = m.eval()(x)
    torch.manual_seed(0)
    ratio = m.train()(x) / clean
    assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12, atol=0)  # the same for all tokens
    assert set(ratio.round(decimals=6).unique().tolist()) == {0.0, round(4 / 3, 6)}
    assert not torch.equal(ratio[0], ratio[1])  # but not for all sequences
    mean = m(x[:1].expand(400, -1, -1)).mean(0)  # one draw for each of 400 copies
    assert (mean - clean[0]).norm() < 0.05 * clean.norm()


def test_attention_dropout_draws_for_every_packed_sequence():
    m = layer(attn_drop=0.5).train()
    m.out_proj = torch.nn.Identity()
    x, bounds = tokens(1, 12, C), torch.tensor([0, 5, 12])
    clean = m.eval()(x, cu_seqlens=bounds)
    torch.manual_seed(0)
    ratio = m.train()(x, cu_seqlens=bounds)[0] / clean[0]
    assert_close(ratio[:5], ratio[:1].expand(5, -1), rtol=1e-12, atol=0)
    assert_close(ratio[5:], ratio[5:6].expand(7, -1), rtol=1e-12, atol=0)
    assert not torch.equal(ratio[0], ratio[5])


def test_projection_dropout_and_bias():
    x = tokens()
    assert (layer(proj_drop=0.5).train()(x) == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert layer(bias=False).in_proj.bias is None and layer(bias=False).out_proj.bias is None


@pytest.mark.parametrize("dim, heads", [(10, 4), (0, 1), (8, 0)])
def test_sizes_that_do_not_divide_are_refused(dim, heads):
    with pytest.raises(ValueError, match="TSSA splits dim into num_heads"):
        TSSA(dim, heads)


@pytest.mark.parametrize("shape", [(N, C), (B, N, C + 1), (B, C, 4, 4)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"TSSA expects tokens of shape \[B, N, 24\]"):
        layer()(tokens(*shape))
