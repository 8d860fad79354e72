import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import gradients, scramble
from tost.nn import MIXERS, Block, make_mixer

B, N, C, H = 2, 11, 12, 3
D = C // H
PADDING = {
    "right": [True] * 8 + [False] * 3,
    "left": [False] * 3 + [True] * 8,
    "inner": [True, False, True, True, False, False, True, True, True, True, True],
}


def mixer(name, **options):
    return scramble(make_mixer(name, C, H, **options).double())


def tokens(seed=1):
    return torch.randn(B, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_table():
    variants = {"tssa-unscaled", "tssa-uniform", "tssa-orthonormal", "tssa-decoupled"}
    assert set(MIXERS) == {"tssa", "softmax", "xca", "linear", "none", "cbsa"} | variants
    with pytest.raises(ValueError, match="unknown mixer 'tsa'; choose one of tssa, softmax, xca, linear, none, cbsa"):
        make_mixer("tsa", C, H)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("name", MIXERS)
def test_padding_leaves_values_and_gradients_of_real_tokens_alone(name, padding):
    m, keep = mixer(name), torch.tensor(PADDING[padding])
    x = tokens().requires_grad_()
    mask = torch.stack([keep, torch.ones(N, dtype=torch.bool)])
    real = x[:1, keep].detach().requires_grad_()
    y, z = m(x, mask=mask)[:1, keep], m(real)
    assert_close(y, z, rtol=1e-11, atol=1e-12)
    padded, alone = gradients(m, y, x), gradients(m, z, real)
    assert padded["0"][0, ~keep].abs().max() == 0
    assert_close(padded["0"][:1, keep], alone["0"], rtol=1e-10, atol=1e-11)
    for n in alone.keys() - {"0"}:
        assert_close(padded[n], alone[n], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", MIXERS)
def test_a_row_without_real_tokens_is_finite_and_silent(name):
    m, x = mixer(name), tokens().requires_grad_()
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[1] = False
    y = m(x, mask=mask)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(m, y[:1], x).values() if g is not None)
    assert_close(y[:1], m(x[:1]), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(MIXERS) - {"cbsa"}))  # its representatives are of neighbours
def test_order_of_tokens_does_not_matter(name):
    m, x = mixer(name), tokens()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert_close(m(x[:, order]), m(x)[:, order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MIXERS)
def test_tokens_see_each_other_except_in_the_control(name):
    m, x = mixer(name), tokens().requires_grad_()
    seen = torch.autograd.grad(m(x)[:, 0].square().sum(), x)[0][:, 1:].abs().max()
    assert (seen == 0) if name == "none" else (seen > 1e-6)


@pytest.mark.parametrize("name", MIXERS)
def test_every_parameter_learns(name):
    m = mixer(name)
    silent = [n for n, g in gradients(m, m(tokens())).items() if g is None or g.abs().max() == 0]
    assert not silent


@pytest.mark.parametrize("name", MIXERS)
def test_every_argument_changes_something(name):
    x = tokens()
    if name != "tssa-orthonormal":  # has no bias at all
        assert mixer(name, bias=False).in_proj.bias is None and mixer(name, bias=False).out_proj.bias is None
    for option in ("attn_drop", "proj_drop"):
        m = mixer(name, **{option: 0.5})
        assert_close(m.eval()(x), mixer(name).eval()(x), rtol=0, atol=0)
        assert not torch.equal(m.train()(x), m.eval()(x)), option
    with pytest.raises(ValueError, match="splits dim into num_heads"):
        make_mixer(name, 10, 4)


@pytest.mark.parametrize("name", MIXERS)
def test_wrong_tokens_and_masks_are_refused(name):
    with pytest.raises(ValueError, match=r"expects tokens of shape \[B, N, 12\]"):
        mixer(name)(tokens()[..., 1:])
    if name != "none":
        for mask in (torch.ones(B, N), torch.ones(B, N + 1, dtype=torch.bool)):
            with pytest.raises(ValueError, match="mask"):
                mixer(name)(tokens(), mask=mask)


def qkv(m, x):
    return m.in_proj(x).view(B, N, 3, H, D).permute(2, 0, 3, 1, 4)  # each [B, H, N, D]


def joined(m, y):
    return m.out_proj(y.transpose(1, 2).reshape(B, N, C))


def test_softmax_is_scaled_dot_product_attention():
    m, x = mixer("softmax"), tokens()
    q, k, v = qkv(m, x)
    want = joined(m, torch.softmax(q @ k.transpose(-1, -2) / D**0.5, -1) @ v)
    assert_close(m(x), want, rtol=1e-11, atol=1e-12)


def test_xca_is_cross_covariance_attention():
    m, x = mixer("xca"), tokens()
    q, k, v = (t.transpose(-1, -2) for t in qkv(m, x))  # [B, H, D, N], as XCiT
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    attention = torch.softmax(q @ k.transpose(-1, -2) * m.temperature.view(1, H, 1, 1), -1)
    assert_close(m(x), joined(m, (attention @ v).transpose(-1, -2)), rtol=1e-11, atol=1e-12)


def test_linear_is_kernel_attention():
    m, x = mixer("linear"), tokens()
    q, k, v = qkv(m, x)
    scores = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).transpose(-1, -2)
    want = joined(m, scores / scores.sum(-1, keepdim=True) @ v)
    assert_close(m(x), want, rtol=1e-11, atol=1e-12)


def test_none_is_the_two_projections():
    m, x = mixer("none"), tokens()
    assert_close(m(x), m.out_proj(m.in_proj(x)), rtol=0, atol=0)


@pytest.mark.parametrize("name", MIXERS)
def test_packed_sequences_in_a_block(name):
    block = scramble(Block(C, H, name).double())
    x, bounds = tokens()[:1], torch.tensor([0, 4, N])
    if getattr(block.mixer, "packs", False):
        alone = torch.cat([block(x[:, :4]), block(x[:, 4:])], 1)
        assert_close(block(x, cu_seqlens=bounds), alone, rtol=1e-12, atol=1e-12)
        mask = torch.arange(N)[None] != 5
        kept = torch.cat([block(x[:, :4]), block(x[:, 4:], mask=mask[:, 4:])], 1)
        assert_close(block(x, mask, torch.tensor([0, 4, 4, N]))[mask], kept[mask], rtol=1e-11, atol=1e-11)
    else:
        with pytest.raises(ValueError, match=f"mixer '{name}' does not take packed sequences"):
            block(x, cu_seqlens=bounds)


@pytest.mark.parametrize("name", ["softmax", "xca", "linear"])
def test_bounds_that_do_not_fit_are_refused(name):
    for x, bounds in ((tokens()[:1], [0, 4]), (tokens()[:1], [0, 12, N]), (tokens()[:2], [0, N])):
        with pytest.raises(ValueError, match="expects cu_seqlens to rise from 0 to N"):
            Block(C, H, name).double()(x, cu_seqlens=torch.tensor(bounds))
