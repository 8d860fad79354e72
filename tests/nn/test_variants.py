"""TSSA with one part changed, CBSA and the ISTA half, against their equations."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import tost
from tests.nn.helpers import scramble
from tost.models import ToSTVision
from tost.nn import Block, make_mixer
from tost.nn.ista import Ista
from tost.nn.tssa_variants import TSSAVariant
from tost.ops import tssa
from tost.rates import LogRate, record_memberships, variational_gradient

B, N, C, H = 2, 11, 12, 3
VARIANTS = ("tssa-unscaled", "tssa-uniform", "tssa-orthonormal", "tssa-decoupled")


def tokens():
    return torch.randn(B, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_nothing_changed_is_the_operator():
    variant, layer = TSSAVariant(C, H).double(), make_mixer("tssa", C, H).double()
    layer.load_state_dict(scramble(variant).state_dict())
    mask = torch.rand(B, N, generator=torch.Generator().manual_seed(0)) > 0.3
    assert_close(variant(tokens()), layer(tokens()), rtol=1e-12, atol=1e-13)
    assert_close(variant(tokens(), mask)[mask], layer(tokens(), mask)[mask], rtol=1e-12, atol=1e-13)
    assert_close(variant.membership(tokens(), mask), layer.membership(tokens(), mask), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", VARIANTS)
def test_memberships(name):
    m = scramble(make_mixer(name, C, H).double())
    w = m.project(tokens())
    pi = {
        "tssa-unscaled": lambda: (m.temperature * w.square().sum(-1)).softmax(-1),
        "tssa-uniform": lambda: torch.full((B, N, H), 1 / 3).double(),
        "tssa-orthonormal": lambda: tssa(w, m.temperature, return_stats=True)[1].membership,
        "tssa-decoupled": lambda: m.membership_proj(tokens()).softmax(-1),
    }[name]()
    assert_close(m.membership(tokens()), pi, rtol=1e-6, atol=1e-7)


def test_the_orthonormal_step_is_the_gradient_of_the_rate():
    m, x = scramble(make_mixer("tssa-orthonormal", C, H).double()), tokens()
    assert_close(m.basis.mT @ m.basis, torch.eye(C // H, dtype=torch.float64).expand(H, -1, -1))
    gradient = variational_gradient(x, m.membership(x), m.basis, f=LogRate(1.0))
    assert_close(m(x), -m.step * N * gradient, rtol=1e-6, atol=1e-8)


def test_the_basis_stays_orthonormal_while_weights_decay():
    m, x = make_mixer("tssa-orthonormal", C, H).double(), tokens()
    before = m.basis.detach().clone()
    optimiser = torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        m(x).square().sum().backward()
        optimiser.step()
    assert (m.basis - before).abs().max() > 1e-3
    assert_close(m.basis.mT @ m.basis, torch.eye(C // H, dtype=torch.float64).expand(H, -1, -1))


def test_cbsa_with_a_representative_for_every_token_is_written_out():
    m, x = scramble(make_mixer("cbsa", C, H).double()), tokens()
    m.representatives = N
    w = m.in_proj(x).unflatten(-1, (H, -1))
    y = torch.zeros(B, N, H, C // H, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            q = w[b, :, h]
            A = (q @ q.T / 2.0).softmax(-1)
            r = q + m.step_r[h] * A @ q
            y[b, :, h] = m.step_x[h] * A.T @ ((r @ r.T / 2.0).softmax(-1) @ r)
    assert_close(m(x), m.out_proj(y.flatten(2)), rtol=1e-10, atol=1e-12)


def test_cbsa_stretches_hold_neighbours_as_equal_as_can_be():
    m = make_mixer("cbsa", C, H)
    m.representatives = 4
    stretches = m._stretches(tokens(), None)[0]
    assert stretches.sum(0).eq(1).all() and stretches.sum(1).tolist() == [3, 3, 3, 2]
    assert stretches.long().argmax(0).diff().ge(0).all()


def test_ista_is_a_step_down_its_objective():
    layer = Ista(C, step=0.05).double()
    with torch.no_grad():
        layer.weight.mul_(0.5)
    x, W = tokens().abs(), layer.weight

    def objective(a):
        return 0.5 * (x - a @ W.T).square().sum() + layer.sparsity * a.abs().sum()

    out = layer(x)
    assert out.min() >= 0 and objective(out) < objective(x)
    expected = (x + 0.05 * ((x - x @ W.T) @ W - 0.1)).clamp_min(0)
    assert_close(out, expected)


def test_the_block_with_ista_has_no_residual_after_its_second_half():
    block = scramble(Block(C, H, feed_forward="ista").double())
    x = tokens()
    half = x + block.gamma1 * block.mixer(block.norm1(x))
    assert block.gamma2 is None
    assert_close(block(x), block.mlp(block.norm2(half)))
    with pytest.raises(ValueError, match="unknown feed_forward 'mpl'; choose one of mlp, ista"):
        Block(C, H, feed_forward="mpl")


@pytest.mark.parametrize("options", [{"mixer": name} for name in (*VARIANTS, "cbsa")] + [{"feed_forward": "ista"}])
def test_models_of_the_ablation_train_and_come_back_from_disk(options, tmp_path):
    torch.manual_seed(0)
    model = tost.create_model("tost_nano_6_p1", num_classes=3, in_chans=1, num_layers=2, **options)
    images = torch.randn(2, 1, 8, 8)
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "cls" not in n)
    model.eval().save_pretrained(tmp_path)
    again = ToSTVision.from_pretrained(tmp_path)
    assert_close(again(images), model(images))
    if options.get("mixer") != "cbsa":
        assert_close(record_memberships(again, images)["blocks.1"].sum(-1), torch.ones(2, 64))
