"""Runs in the environment of `make test-timm`; elsewhere timm is absent and these tests are skipped."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

timm = pytest.importorskip("timm")

import tost.integrations.timm  # noqa: E402, F401
from tost.models import ToSTVision, create_model, list_models  # noqa: E402


def tiny(**options):
    return timm.create_model("tost_nano_6_p4", num_classes=5, **options)


def test_every_model_is_registered():
    assert set(timm.list_models("tost_*")) == set(list_models(aliases=True))


def test_registration_happens_on_import_only():
    code = f"""
import runpy
kept = runpy.run_path({str(Path(__file__).with_name("conftest.py"))!r})
import timm, tost, tost.models
assert not timm.list_models("tost_*")
import tost.integrations.timm
assert timm.is_model("tost_small_12_p16") and timm.is_model("tost_cab_small_12_p16")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_timm_builds_our_model():
    torch.manual_seed(0)
    ours = create_model("tost_nano_6_p4", num_classes=5).eval()
    torch.manual_seed(0)
    theirs = tiny().eval()
    assert isinstance(theirs, ToSTVision)
    x = torch.randn(2, 3, 32, 32)
    assert_close(theirs(x), ours(x), rtol=0, atol=0)


def test_arguments_of_timms_train_script_arrive():
    model = tiny(
        pretrained=False,
        in_chans=1,
        drop_rate=0.1,
        drop_path_rate=0.2,
        global_pool="avg",
        img_size=64,
        drop_block_rate=None,
        bn_momentum=None,
    )
    assert (model.config.in_chans, model.config.drop_rate, model.config.drop_path_rate) == (1, 0.1, 0.2)
    assert model.config.global_pool == "avg" and model.config.img_size == 64
    with pytest.raises(ValueError, match="no option window_size"):
        tiny(window_size=7)


def test_pretrained_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="no released weights"):
        tiny(pretrained=True)


def test_features_only_gives_the_blocks_outputs():
    torch.manual_seed(0)
    features = tiny(features_only=True, out_indices=(1, 4)).eval()
    torch.manual_seed(0)
    model = tiny().eval()
    x = torch.randn(2, 3, 32, 16)
    got = features(x)
    want = model.forward_intermediates(x, indices=[1, 4], intermediates_only=True)
    assert features.feature_info.channels() == [96, 96] and features.feature_info.reduction() == [4, 4]
    for a, b in zip(got, want):
        assert a.shape == (2, 96, 8, 4)
        assert_close(a, b, rtol=0, atol=0)
    assert len(features.model.blocks) == 5  # pruned after the last one asked for


def test_timms_optimiser_honours_the_exclusions():
    from timm.optim import create_optimizer_v2, param_groups_layer_decay

    model = tiny()
    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    named = dict(model.named_parameters())
    assert sum(len(g["params"]) for g in groups) == len(named)
    assert not [n for n in model.no_weight_decay() if id(named[n]) in decayed]
    by_layer = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in by_layer for p in g["params"]}
    assert len(scale) == len(named)
    order = [
        "patch_embed.layers.0.conv.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.5.mlp.fc1.weight",
        "cls_blocks.1.mlp.fc1.weight",
        "head.weight",
    ]
    scales = [scale[id(named[n])] for n in order]
    assert scales == sorted(scales) and len(set(scales)) == len(scales)


def test_a_training_step_under_timms_loss_lowers_it():
    from timm.loss import SoftTargetCrossEntropy

    torch.manual_seed(0)
    model = tiny(img_size=16).train()
    x, y = torch.randn(8, 3, 16, 16), torch.eye(5)[torch.arange(8) % 5]
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3)
    losses = []
    for _ in range(8):
        loss = SoftTargetCrossEntropy()(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
