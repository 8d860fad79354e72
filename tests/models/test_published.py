import pytest
import torch
from torch.testing import assert_close

from tests.nn.helpers import scramble
from tost.bench.published_vision import PublishedVision
from tost.models import ToSTVision, VisionConfig, create_model, from_official, list_models, to_official

SIZES = [
    {"patch": 16, "dim": 64, "depth": 2, "heads": 4, "scale": 1.0, "in_chans": 3},
    {"patch": 8, "dim": 48, "depth": 3, "heads": 3, "scale": 1e-5, "in_chans": 1},
]


def pair(size):
    """A published model with random weights and statistics, and ours with the same."""
    theirs = scramble(PublishedVision(num_classes=7, **size)).eval()
    config = VisionConfig("converted", size["patch"], size["dim"], size["depth"], size["heads"], 7, size["in_chans"])
    ours = ToSTVision(config).eval()
    ours.load_state_dict(from_official(theirs.state_dict()))
    return theirs, ours


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"p{s['patch']}")
@pytest.mark.parametrize("grid", [(2, 3), (4, 4)], ids=str)
def test_converted_logits_and_gradients_agree(size, grid):
    theirs, ours = pair(size)
    x = torch.randn(2, size["in_chans"], *(n * size["patch"] for n in grid)).requires_grad_()
    want, got = theirs(x), ours(x)
    assert (got - want).norm() < 1e-5 * want.norm()
    parameters = dict(theirs.named_parameters())
    wanted = dict(zip(parameters, torch.autograd.grad(want.square().sum(), parameters.values(), retain_graph=True)))
    ours.zero_grad()
    got.square().sum().backward(retain_graph=True)
    found = to_official({n: p.grad for n, p in ours.named_parameters()})
    total = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for name, g in wanted.items():
        assert (found[name] - g).norm() < 1e-4 * g.norm() + 1e-6 * total, name
    dx, dz = (torch.autograd.grad(y.square().sum(), x)[0] for y in (got, want))
    assert (dx - dz).norm() < 1e-4 * dz.norm()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"p{s['patch']}")
def test_state_dicts_round_trip_bit_for_bit(size):
    theirs, ours = pair(size)
    published = theirs.state_dict()
    back = to_official(from_official(published))
    assert list(back) == list(published)
    for name, tensor in published.items():
        assert back[name].shape == tensor.shape and torch.equal(back[name], tensor), name
    own = ours.state_dict()
    again = from_official(to_official(own))
    assert set(again) == set(own)
    for name, tensor in own.items():
        assert again[name].shape == tensor.shape and torch.equal(again[name], tensor), name


@pytest.mark.parametrize("name", [n for n in list_models() if "nano" not in n])
def test_every_published_size_has_the_published_parameters(name):
    with torch.device("meta"):
        ours = create_model(name)
        c = ours.config
        theirs = PublishedVision(c.patch_size, c.dim, c.num_layers, c.num_heads, c.layer_scale_init)
    shapes = {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    assert {n: tuple(t.shape) for n, t in to_official(ours.state_dict()).items()} == shapes


def test_unknown_keys_are_named():
    state = PublishedVision(16, 64, 1, 4).state_dict()
    with pytest.raises(ValueError, match=r"released vision code: unknown keys model, optimizer"):
        from_official({"model": state, "optimizer": {}})
    with pytest.raises(ValueError, match=r"unknown keys blocks.0.local_mp.bn.weight"):
        from_official({**state, "blocks.0.local_mp.bn.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"a ToSTVision with the mixer 'tssa': unknown keys blocks.0.norm9.weight"):
        to_official({"blocks.0.norm9.weight": torch.zeros(1)})
    assert_close(from_official(state)["cls_token"], state["cls_token"])


def test_other_mixers_are_not_taken_for_the_published_one():
    state = create_model("tost_nano_6_p4", mixer="softmax").state_dict()
    with pytest.raises(ValueError, match="lacks"):
        create_model("tost_nano_6_p4", mixer="softmax")
        from tost.models.pretrained import load_strictly

        load_strictly(create_model("tost_nano_6_p4"), from_official(to_official(state)), "the other")
