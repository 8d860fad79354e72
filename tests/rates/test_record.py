"""Recorders measure what they say and leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tost
from tost.ops import tssa
from tost.rates import RateRecord, projected_rate, record_class_attention, record_memberships, record_rates


@pytest.fixture()
def model():
    torch.manual_seed(0)
    return tost.create_model("tost_nano_6_p1", num_classes=10, in_chans=1, drop_path_rate=0.5)


@pytest.fixture()
def images():
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def layer_inputs(model, images):
    """Every block's input, by running the blocks by hand."""
    outputs = model.forward_intermediates(images, intermediates_only=True, output_fmt="NLC")
    return [model._embed(images)[0], *outputs]


def split(block, tokens):
    return block.mixer.in_proj(block.norm1(tokens)).unflatten(-1, (block.mixer.num_heads, -1))


def test_rates_are_those_of_the_blocks_run_by_hand(model, images):
    record = record_rates(model, images)
    model.eval()
    states = layer_inputs(model, images)
    assert record.layers == [f"blocks.{i}" for i in range(6)]
    for i, block in enumerate(model.blocks):
        x = states[i]
        membership = tssa(split(block, x), block.mixer.temperature, return_stats=True)[1].membership
        half = x + block.gamma1 * block.mixer(block.norm1(x))
        for which, tokens in (("before", x), ("mixed", half), ("after", states[i + 1])):
            expected = projected_rate(split(block, tokens), membership)
            assert_close(getattr(record, which)[i], expected, rtol=1e-4, atol=1e-5)


def test_recording_leaves_the_model_as_it_was(model, images):
    model.train()
    model.blocks[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    random = torch.get_rng_state()
    record_rates(model, images), record_memberships(model, images), record_class_attention(model, images)
    assert [module.training for module in model.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_hooks_go_when_the_model_fails(model):
    with pytest.raises((RuntimeError, ValueError)):
        record_rates(model, torch.randn(1, 5, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_memberships_and_class_attention_are_distributions(model, images):
    memberships, attention = record_memberships(model, images), record_class_attention(model, images)
    assert list(memberships) == [f"blocks.{i}" for i in range(6)]
    model.eval()
    states = layer_inputs(model, images)
    for i, pi in enumerate(memberships.values()):
        assert pi.shape == (3, 64, 4)
        block = model.blocks[i]
        expected = tssa(split(block, states[i]), block.mixer.temperature, return_stats=True)[1].membership
        assert_close(pi, expected, rtol=1e-4, atol=1e-5)
    assert [a.shape for a in attention.values()] == [(3, 4, 64)] * 2
    assert all((a.sum(-1) < 1).all() and (a > 0).all() for a in attention.values())


def test_masks_are_honoured():
    torch.manual_seed(0)
    encoder = tost.ToST(num_layers=2, dim=16, heads=4)
    x = torch.randn(2, 9, 16)
    mask = torch.arange(9)[None] < torch.tensor([[9], [5]])
    padded = record_rates(encoder, {"x": x, "mask": mask})
    alone = record_rates(encoder, x[1:, :5])
    assert_close(padded.after[:, 1:], alone.after, rtol=1e-4, atol=1e-5)
    assert_close(padded.before[:, 1:], alone.before, rtol=1e-4, atol=1e-5)
    assert (record_memberships(encoder, (x, mask))["blocks.0"][1, 5:] == 0).all()


def test_means_and_spreads(model, images):
    record = record_rates(model, images)
    both = RateRecord.cat([record, record])
    assert both.after.shape == (6, 6)
    assert_close(both.mean(), record.after.mean(1))
    assert_close(record.spread("before"), record.before.std(1))
    assert (RateRecord.cat([record_rates(model, images[:1])]).spread() == 0).all()


def test_a_model_without_the_operator_is_refused(images):
    softmax = tost.create_model("tost_nano_6_p1", in_chans=1, mixer="softmax")
    with pytest.raises(ValueError, match="mixer is TSSA"):
        record_rates(softmax, images)
    with pytest.raises(ValueError, match="ClassAttention"):
        record_class_attention(nn.Linear(2, 2), torch.randn(1, 2))
