"""Layers and models over a sequence that is split over processes give what one process gives."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tost.nn import MIXERS, Block, CausalBlock, ClassAttention, TSSA2d, context_parallel
from tost.nn.causal_mixers import CAUSAL_MIXERS
from tost.nn.causal_mixture import CausalMixture, MixtureOptions
from tost.nn.context import check_splits
from tost.nn.short_conv import ShortConv

pytest.importorskip("transformers")
if not torch.distributed.is_available():
    pytest.skip("this torch has no distributed package", allow_module_level=True)

from tests.nn.context_worker import CASES, MASKED, B, C, H, Whole, gradients, inputs, loss_of
from tests.processes import found_by

pytestmark = pytest.mark.xdist_group("context")
D = C // H
LEARNED = {"learned positions", "learned positions of text"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found, by the size of the group."""
    return found_by("tests.nn.context_worker", 4, tmp_path_factory.mktemp("processes"))


@pytest.fixture(params=[2, 4])
def group(request, found):
    """(size, what each process of the group found)."""
    return request.param, [part[request.param] for part in found if request.param in part]


@pytest.mark.parametrize(
    ("case", "masked"), [(case, masked) for case in CASES for masked in (False, True) if not masked or case in MASKED]
)
def test_values_and_gradients_are_those_of_one_process(group, case, masked):
    size, found = group
    parts = [part["cases"][case, masked] for part in found]
    model, x, mask, target = inputs(case, masked)
    loss, out = loss_of(case, model, x, mask, target, Whole())
    expected = gradients(model, x, loss)
    for part in parts:
        assert_close(part["loss"], loss.detach(), rtol=1e-9, atol=1e-10)
        if CASES[case][1]:
            assert_close(part["out"], out.detach(), rtol=1e-9, atol=1e-10)
    if not CASES[case][1]:
        whole = torch.cat([part["out"] for part in parts], 1)
        real = slice(None) if mask is None else mask
        assert_close(whole[real], out.detach()[real], rtol=1e-9, atol=1e-10)
    got = [part["gradients"] for part in parts]
    if "x" in expected:  # each process's loss is the whole one, so the mean over processes is
        assert_close(torch.cat([part["x"] for part in got], 1) / size, expected.pop("x"), rtol=1e-8, atol=1e-9)
    for name, gradient in expected.items():
        if gradient is None:
            assert all(part[name] is None for part in got), name
        else:
            assert gradient.abs().max() > 0 or name.endswith(("temperature", "head.weight")), name
            assert_close(sum(part[name] for part in got) / size, gradient, rtol=1e-8, atol=1e-9)


def test_what_travels_does_not_grow_with_the_sequence(group):
    for part in group[1]:
        told = part["volumes"]
        for layer in ("tssa", "causal"):
            assert told[layer, 4] == told[layer, 64]
        sums = 4 * B * H * (2 * D + 1)  # float32
        assert told["tssa", 4] == [2, sums, 2, 4 * B * H * 2 * D]
        sums = 8 * B * (H * (2 * D + 1) + 1)  # float64, and how many tokens there are
        assert told["causal", 4] == [2, sums, 2, sums]


def test_a_prompt_read_by_all_goes_on_in_the_last(group):
    model, ids, _, _ = inputs("language", False)
    with torch.no_grad():
        expected = model.eval()(ids).logits[:, -1:]
    assert_close(group[1][-1]["prefilled"], expected, rtol=1e-9, atol=1e-10)


def test_what_is_not_split_says_so_in_every_process(group):
    for part in group[1]:
        said = part["refusals"]
        calls = {"packed", "state", "too long", "membership", "stream", "labels"}
        assert set(said) == calls | LEARNED | {"outside"}
        assert all(f"positions for 5 tokens, got a split sequence of {3 * group[0]}" in said[name] for name in LEARNED)
        assert "pad them" in said["packed"] and "shifted before" in said["labels"]
        assert "position_bias for" in said["too long"] and "4" in said["too long"]


def test_it_needs_processes():
    with pytest.raises(ValueError, match="torchrun"), context_parallel(Block(C, H)):
        pass


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_that_split(name):
    model = nn.Sequential(Block(C, H), Block(C, H, name))
    if name in ("tssa", "none"):
        check_splits(model)
    else:
        with pytest.raises(ValueError, match=r"got 1\.mixer \(\w+\); build the model with mixer='tssa'"):
            check_splits(model)


@pytest.mark.parametrize("name", CAUSAL_MIXERS)
def test_causal_mixers_that_split(name):
    model = CausalBlock(C, H, name)
    if name == "softmax":
        with pytest.raises(ValueError, match=r"mixer \(CausalSoftmax\)"):
            check_splits(model)
    else:
        check_splits(model)


@pytest.mark.parametrize(
    "part",
    [
        CausalMixture(C, H, options=MixtureOptions(group_means=True)),
        ShortConv(C, 3),
        nn.MultiheadAttention(C, H),
        nn.LSTM(C, C),
        nn.BatchNorm1d(C),
        ClassAttention(C, H),
        TSSA2d(C, H),
    ],
    ids=lambda part: type(part).__name__,
)
def test_other_parts_that_mix_tokens(part):
    with pytest.raises(ValueError, match=type(part).__name__):
        check_splits(nn.Sequential(nn.LayerNorm(C), part))


def test_a_mixer_from_elsewhere_has_to_say_that_it_splits():
    block = Block(C, H)
    block.mixer = nn.Identity()
    with pytest.raises(ValueError, match=r"mixer \(Identity\)"):
        check_splits(block)
