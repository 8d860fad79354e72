import pytest
import torch

from tests.models.language.common import text
from tests.nn.helpers import scramble
from tost.bench.published_language import PublishedLanguage
from tost.models.language import (
    ToSTForCausalLM,
    config_from_official,
    from_official,
    preset,
    to_official,
)
from tost.nn import no_weight_decay

SIZES = [
    {"vocab": 61, "length": 40, "layers": 2, "heads": 3, "dim": 24},
    {"vocab": 61, "length": 33, "layers": 3, "heads": 4, "dim": 32, "bias": True, "scale": 1.0},
]


def pair(size, seed=0):
    """A published model with random weights, and ours with the same."""
    theirs = scramble(PublishedLanguage(**size), seed, std=0.3).eval()
    state = theirs.state_dict()
    ours = ToSTForCausalLM(config_from_official(state)).eval()
    ours.load_state_dict(from_official(state))
    return theirs, ours


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"d{s['dim']}")
@pytest.mark.parametrize("n", [1, 7, 33])
def test_logits_and_gradients_agree(size, n):
    theirs, ours = pair(size)
    ids = text(n, batch=2)
    want, got = theirs(ids), ours(ids).logits
    assert (got - want).norm() < 1e-5 * want.norm()
    names = dict(theirs.named_parameters())
    wanted = dict(zip(names, torch.autograd.grad(want.square().mean(), names.values())))
    got.square().mean().backward()
    found = to_official({name: p.grad for name, p in ours.named_parameters()})
    assert set(found) == set(wanted)
    total = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for name, g in wanted.items():
        assert (found[name] - g).norm() < 1e-4 * g.norm() + 1e-6 * total, name


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"d{s['dim']}")
def test_greedy_text_is_the_same(size):
    theirs, ours = pair(size)
    prompt = text(5, batch=3)
    want = theirs.generate(prompt, 25)
    assert torch.equal(ours.generate(prompt, max_new_tokens=25, do_sample=False), want)
    assert len(want[:, 5:].unique()) > 5  # not one token for ever


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"d{s['dim']}")
def test_state_dicts_round_trip_bit_for_bit(size):
    theirs, ours = pair(size)
    published = theirs.state_dict()
    back = to_official(from_official(published))
    assert list(back) == list(published)
    for name, t in published.items():
        assert back[name].shape == t.shape and torch.equal(back[name], t), name
    own = ours.state_dict()
    again = from_official(to_official(own))
    assert set(again) == set(own) and all(torch.equal(again[name], t) for name, t in own.items())
    compiled = {f"_orig_mod.{name}": t for name, t in published.items()}
    assert list(from_official(compiled)) == list(from_official(published))


def test_base_has_the_published_shapes():
    with torch.device("meta"):
        theirs, ours = PublishedLanguage().state_dict(), ToSTForCausalLM(preset("base"))
    shapes = {name: tuple(t.shape) for name, t in theirs.items()}
    assert {name: tuple(t.shape) for name, t in to_official(ours.state_dict()).items()} == shapes
    assert config_from_official(theirs).to_dict() == preset("base").to_dict()


def test_unknown_keys_are_named():
    state = PublishedLanguage(**SIZES[0]).state_dict()
    with pytest.raises(ValueError, match=r"released language code: unknown keys transformer\.h\.0\.ls_1\.gamma"):
        from_official({**state, "transformer.h.0.ls_1.gamma": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"a ToSTForCausalLM: unknown keys head\.weight"):
        to_official({"head.weight": torch.zeros(1)})


def test_what_the_optimiser_must_not_decay():
    _, ours = pair(SIZES[0])
    undecayed = no_weight_decay(ours)
    for i in range(2):
        block = f"model.blocks.{i}."
        assert {block + "mixer.temperature", block + "mixer.position_bias"} <= undecayed
    # the published rule, for matrices: everything decays but these two
    matrices = {name for name, p in ours.named_parameters() if p.ndim >= 2}
    assert matrices & undecayed == {f"model.blocks.{i}.mixer.position_bias" for i in range(2)}
