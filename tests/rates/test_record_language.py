"""Recorders on causal models: memberships of a stream, rates of whole sequences."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from tests.models.language.common import tiny
from tost.models.language import ToSTForCausalLM, preset
from tost.ops import causal_membership, causal_tssa
from tost.rates import projected_rate, record_memberships, record_rates


def published():
    return tiny(0, vocab_size=50)


def modern():
    torch.manual_seed(0)
    return ToSTForCausalLM(preset("modern-nano", vocab_size=50, num_hidden_layers=2, length_temperature=True))


def ids(N=23):
    return torch.randint(50, (2, N), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("masked", [False, True])
def test_membership_is_what_each_token_adds_to_the_mass(masked):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, 13, 3, 5, generator=generator, dtype=torch.float64)
    t, bias = torch.tensor([0.5, 1.0, 2.0]).double(), torch.randn(3, 20, generator=generator).double()
    decay = torch.tensor([1.0, 0.9, 0.5]).double()
    mask = torch.rand(2, 13, generator=generator) > 0.3 if masked else None
    options = {"position_bias": bias, "decay": decay}
    pi = causal_membership(w, t, mask=mask, **options)
    state, mass = None, torch.zeros(2, 3).double()
    for n in range(13):
        part = None if mask is None else mask[:, n : n + 1]
        carried = causal_membership(w[:, n : n + 1], t, mask=part, state=state, **options)
        _, state = causal_tssa(
            w[:, n : n + 1], t, mask=part, state=state, return_state=True, backend="reference", **options
        )
        real = torch.ones(2, dtype=torch.bool) if part is None else part[:, 0]
        expected = torch.where(real[:, None], state.mass - decay * mass, 0)
        assert_close(pi[:, n], expected)
        assert_close(carried[:, 0], expected)
        mass = state.mass


@pytest.mark.parametrize("make", [published, modern])
def test_a_stream_has_the_memberships_of_the_whole(make):
    model, tokens = make(), ids()
    whole = record_memberships(model, {"input_ids": tokens, "use_cache": False})
    cache = DynamicCache(config=model.config)
    parts = [
        record_memberships(model, {"input_ids": tokens[:, cut], "past_key_values": cache, "use_cache": True})
        for cut in (slice(0, 9), slice(9, 10), slice(10, 23))
    ]
    for name, pi in whole.items():
        assert pi.shape == (2, 23, model.config.num_attention_heads)
        assert_close(torch.cat([part[name] for part in parts], 1), pi, rtol=1e-4, atol=1e-5)
        assert_close(pi.sum(-1), torch.ones(2, 23))


@pytest.mark.parametrize("make", [published, modern])
def test_rates_are_those_of_the_blocks_run_by_hand(make):
    model, tokens = make().eval(), ids()
    record = record_rates(model, {"input_ids": tokens, "use_cache": False})
    states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    pi = record_memberships(model, {"input_ids": tokens, "use_cache": False})
    assert record.layers == list(pi)
    for i, name in enumerate(pi):
        block = model.get_submodule(name)

        def w(z, block=block):
            h = block.norm1(z)
            h = h if block.conv is None else block.conv(h)[0]
            parts = block.mixer.in_proj(h).chunk(block.mixer.in_proj.out_features // block.mixer.dim, -1)
            return parts[1 if len(parts) > 1 else 0].unflatten(-1, (block.mixer.num_heads, -1))

        half = states[i] + (1 if block.gamma1 is None else block.gamma1) * block.mix(block.norm1(states[i]))
        assert_close(record.before[i], projected_rate(w(states[i]), pi[name]), rtol=1e-4, atol=1e-5)
        assert_close(record.mixed[i], projected_rate(w(half), pi[name]), rtol=1e-4, atol=1e-5)


def test_rates_want_whole_sequences():
    model = published()
    cache = DynamicCache(config=model.config)
    model.eval()(ids(5), past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="whole sequences"):
        record_rates(model, {"input_ids": ids(5), "past_key_values": cache, "use_cache": True})
    assert not any(m._forward_pre_hooks for m in model.modules())
