"""timm's model contract, without timm."""

import re

import pytest
import torch
from torch.testing import assert_close

from tests.models.test_vision import images, nano
from tests.nn.helpers import scramble


def test_intermediates_are_the_outputs_of_the_blocks():
    model = nano().eval()
    x, seen = images(model, side=3), []
    hooks = [b.register_forward_hook(lambda m, i, o: seen.append(o)) for b in model.blocks]
    final, outputs = model.forward_intermediates(x, output_fmt="NLC")
    for hook in hooks:
        hook.remove()
    assert len(outputs) == 6
    for a, b in zip(outputs, seen):
        assert_close(a, b, rtol=0, atol=0)
    assert_close(final, model.forward_features(x), rtol=0, atol=0)
    maps = model.forward_intermediates(x, intermediates_only=True)
    for a, b in zip(maps, outputs):
        assert a.shape == (2, 96, 3, 4)
        assert_close(a.flatten(2).transpose(1, 2), b, rtol=0, atol=0)


@pytest.mark.parametrize("indices, blocks", [(2, [4, 5]), ([0, 3], [0, 3]), ([-1, 1], [5, 1]), (None, list(range(6)))])
def test_indices_of_intermediates(indices, blocks):
    model = nano().eval()
    x = images(model)
    every = model.forward_intermediates(x, intermediates_only=True)
    for got, i in zip(model.forward_intermediates(x, indices=indices, intermediates_only=True), blocks, strict=True):
        assert_close(got, every[i], rtol=0, atol=0)


def test_stop_early_runs_no_block_in_vain():
    model, ran = nano().eval(), []
    for block in model.blocks:
        block.register_forward_hook(lambda m, i, o: ran.append(m))
    model.forward_intermediates(images(model), indices=[1, 2], stop_early=True, intermediates_only=True)
    assert len(ran) == 3
    final, _ = model.forward_intermediates(images(model), indices=[1], stop_early=True)  # the result needs all of them
    assert_close(final, model.forward_features(images(model)), rtol=0, atol=0)


def test_norm_and_prefix_of_intermediates():
    model = scramble(nano()).eval()
    x = images(model)
    raw = model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
    normed = model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True, norm=True)
    assert_close(normed[2], model.norm(raw[2]), rtol=0, atol=0)
    pairs = model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True)
    assert_close(pairs[2][0], raw[2], rtol=0, atol=0)
    assert pairs[2][1].shape == (2, 0, 96)


def test_wrong_requests_for_intermediates_are_refused():
    model = nano()
    with pytest.raises(ValueError, match="'NCHW' or 'NLC', got 'NHWC'"):
        model.forward_intermediates(images(model), output_fmt="NHWC")
    for indices in (0, 7, [6], [-7]):
        with pytest.raises(ValueError, match="indices choose among 6 blocks"):
            model.forward_intermediates(images(model), indices=indices)


def test_pruning_keeps_what_the_intermediates_need():
    model = nano().eval()
    x = images(model)
    want = model.forward_intermediates(x, indices=[1, -3], intermediates_only=True)
    assert model.prune_intermediate_layers([1, -3], prune_norm=True) == [1, 3]
    got = model.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
    for a, b in zip(got, want):
        assert_close(a, b, rtol=0, atol=0)
    assert len(model.blocks) == 4 and len(model.cls_blocks) == 0 and isinstance(model.norm, torch.nn.Identity)
    kept = nano()
    kept.prune_intermediate_layers(1, prune_head=False)
    assert len(kept.cls_blocks) == 2 and kept.num_classes == 5 and isinstance(kept.norm, torch.nn.LayerNorm)


def test_classifier_can_be_replaced_and_removed():
    model = nano().double().eval()
    x = images(model).double()
    assert model.get_classifier() is model.head and model(x).shape == (2, 5)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(9, global_pool="avg")
    assert model(x).shape == (2, 9) and model(x).dtype == torch.float64
    assert (model.num_classes, model.global_pool, model.config.num_classes) == (9, "avg", 9)
    assert model.default_cfg["num_classes"] == 9
    model.reset_classifier(0, "token")
    assert_close(model(x), pooled, rtol=0, atol=0)
    with pytest.raises(ValueError, match="global_pool is 'token' or 'avg'"):
        model.reset_classifier(3, "max")


def test_description():
    model = nano(in_chans=1, img_size=(8, 16))
    cfg = model.default_cfg
    assert cfg is model.pretrained_cfg
    assert (cfg["architecture"], cfg["input_size"], cfg["num_classes"]) == ("tost_nano_6_p4", (1, 8, 16), 5)
    assert dict(model.named_modules())[cfg["first_conv"]].in_channels == 1
    assert dict(model.named_modules())[cfg["classifier"]] is model.head
    assert model.num_features == model.embed_dim == model.head_hidden_size == 96
    assert [i["num_chs"] for i in model.feature_info] == [96] * 6 and model.feature_info[0]["reduction"] == 4
    assert dict(model.named_modules())[model.feature_info[3]["module"]] is model.blocks[3]


def test_optimiser_groups_cover_each_parameter_once():
    model = nano()
    names = {n for n, _ in model.named_parameters()}
    excluded = model.no_weight_decay()
    assert excluded < names
    assert {"cls_token", "blocks.0.mixer.temperature", "blocks.5.gamma2", "cls_blocks.1.gamma1"} <= excluded
    assert not [n for n in excluded if n.endswith("weight")]
    for coarse in (False, True):
        groups = model.group_matcher(coarse)
        patterns = [
            p for value in groups.values() for p in ([value] if isinstance(value, str) else [v[0] for v in value])
        ]
        for name in names - {"head.weight", "head.bias"}:
            assert sum(bool(re.match(p, name)) for p in patterns) == 1, name


def test_copies_and_pickles():
    import copy
    import io

    model = nano().eval()
    x = images(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert_close(twin(x), model(x), rtol=0, atol=0)
        assert twin.config == model.config
