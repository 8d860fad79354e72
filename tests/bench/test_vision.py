"""Models and blocks of a comparison are equal where they should be, and checked where they could differ."""

from __future__ import annotations

import pytest
import torch

from tost.bench import vision_models as vision
from tost.bench.layers import LAYERS, check_layers, stack
from tost.bench.training_steps import check_vision, vision_step
from tost.nn import TSSA


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_hold_the_same_weights(dtype):
    ours, theirs = (m.to(getattr(torch, dtype)) for m in vision.pair("tost_tiny_12_p16", 64))
    check = vision.check_vision(ours, theirs, vision.images(1, 64, dtype))
    assert check.green, str(check)
    with torch.no_grad():
        ours.head.bias.add_(1.0)
    assert not vision.check_vision(ours, theirs, vision.images(1, 64, dtype)).green


@pytest.mark.parametrize("name", ["tost", "published", "softmax", "xca", "linear"])
def test_blocks_pass_their_gate(name):
    assert all(check.green for check in vision.check_block(name, 33, "float32", "cpu"))


def test_a_wrong_block_is_seen(monkeypatch):
    right = TSSA.forward
    monkeypatch.setattr(TSSA, "forward", lambda self, x, **kwargs: 1.01 * right(self, x, **kwargs))
    checks = list(vision.check_block("tost", 33, "float32", "cpu"))
    assert len(checks) == 2 and not any(check.green for check in checks)
    assert not all(check.green for check in check_layers(33, "float32", "cpu"))


def test_twelve_layers_agree_with_the_published_ones():
    checks = list(check_layers(40, "float32", "cpu"))
    assert len(checks) == 4 and all(check.green for check in checks), [str(check) for check in checks]
    assert all(len(stack(name)) == 12 for name in LAYERS)


def test_gradients_of_a_training_step_are_checked(monkeypatch):
    assert check_vision("tost_tiny_12_p16", 2, 32, "cpu").green
    right = TSSA.forward
    monkeypatch.setattr(TSSA, "forward", lambda self, x, **kwargs: right(self, x, **kwargs) + 0.1 * (x - x.detach()))
    assert not check_vision("tost_tiny_12_p16", 2, 32, "cpu").green


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_learns(dtype):
    step = vision_step("softmax", "tost_tiny_12_p16", 2, 32, dtype, "cpu")
    model = next(cell.cell_contents for cell in step.__closure__ if hasattr(cell.cell_contents, "param_groups"))
    before = [p.detach().clone() for p in model.param_groups[0]["params"]]
    step()
    after = model.param_groups[0]["params"]
    assert all(p.dtype == torch.float32 for p in after) and any(not torch.equal(a, b) for a, b in zip(before, after))
