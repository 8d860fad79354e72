"""Watching a model changes nothing of it, and sees what the recorders of tost.rates see."""

import pytest
import torch

import tost
from tests.models.language.common import text, tiny
from tests.nn.helpers import scramble
from tost.analysis.gather import membership_sums
from tost.analysis.recorders import has_class_attention, has_memberships, run, watching
from tost.rates import record_memberships, record_rates


def vision(mixer="tssa"):
    model = tost.create_model("tost_nano_6_p1", num_classes=3, in_chans=1, mixer=mixer, dim=16, num_layers=3)
    return scramble(model, 0, std=0.3)


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


def language_batch():
    return {"input_ids": text(20, 2), "use_cache": False}


@pytest.mark.parametrize("kind", ["vision", "softmax", "language"])
def test_a_watched_model_answers_the_same_bits_and_keeps_no_hook(kind):
    model = tiny(conv_width=4).train() if kind == "language" else vision("softmax" if kind == "softmax" else "tssa")
    batch = language_batch() if kind == "language" else torch.randn(2, 1, 6, 6)
    modes = [m.training for m in model.modules()]

    def answer():
        found = run(model, batch)
        return found.logits if kind == "language" else found

    before, seen = answer(), []
    with watching(model, seen.append):
        during = answer()
    assert torch.equal(before, during) and torch.equal(before, answer())
    assert not hooks(model) and [m.training for m in model.modules()] == modes
    assert len(seen) == len(model.model.blocks if kind == "language" else model.blocks)


def test_no_hook_stays_after_an_exception():
    model = vision()

    def fail(sight):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watching(model, fail):
        run(model, torch.randn(1, 1, 4, 4))
    assert not hooks(model)


@pytest.mark.parametrize("kind", ["vision", "language"])
def test_memberships_are_those_of_the_rates_package(kind):
    model = tiny(conv_width=4) if kind == "language" else vision()
    batch = language_batch() if kind == "language" else torch.randn(2, 1, 6, 6)
    seen = {}
    with watching(model, lambda sight: seen.__setitem__(sight.layer, sight)):
        record_rates(model, batch)  # one forward pass serves both
    for name, pi in record_memberships(model, batch).items():
        assert torch.equal(seen[name].membership, pi)


def test_scored_tokens_are_what_the_mixer_projects():
    model, seen = vision(), []
    with watching(model, seen.append):
        run(model, torch.randn(2, 1, 6, 6))
    for sight, following in zip(seen, seen[1:]):
        w = following.block.mixer.project(following.scored)
        assert torch.equal(following.projected(sight.output), w)


def test_what_a_model_has():
    assert has_memberships(vision()) and has_class_attention(vision()) and not has_memberships(vision("softmax"))
    assert has_memberships(tiny()) and not has_class_attention(tiny())


def test_effective_heads_of_equal_shares_are_all_heads():
    model = vision()
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.temperature.zero_()
    for values in membership_sums(model, torch.randn(2, 1, 5, 5)).values():
        assert torch.allclose(values[..., 0], torch.full((2, 25), 4.0, dtype=torch.float64), atol=1e-6)
        assert values[..., 1].abs().max() < 1e-6
