"""The language benchmark measures right models beside their rivals, and is silent about speed when one is wrong."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from tost.bench import language_gate, prefill
from tost.bench.gate import Check
from tost.bench.graph import check_steps, static_step
from tost.bench.groups.decode import gpt2_step
from tost.bench.growth import growth_records
from tost.bench.language_models import (
    Size,
    cache_nbytes,
    gpt2_cache,
    gpt2_model,
    published_model,
    random_text,
    size_of,
    tost_model,
)
from tost.bench.products import KINDS, REST, share_records, time_by_kind, usual_products
from tost.models.language import ToSTForCausalLM, preset
from tost.nn import causal, linear

SIZE = Size(32, 2, 2, 96)


def red(size=SIZE):
    return [check.what for check in language_gate.check_models(size) if not check.green]


def test_the_gate_is_green_for_what_is_right():
    checks = language_gate.check_models(SIZE)
    assert len(checks) == 6 and all(check.green for check in checks), [str(check) for check in checks]


@pytest.mark.parametrize("factor", [1.001, torch.nan], ids=["wrong", "nan"])
def test_the_gate_is_red_for_a_wrong_operator(factor, monkeypatch):
    right = causal.causal_tssa

    def spoilt(*args, **kwargs):
        y, state = right(*args, **kwargs)
        return factor * y, state

    monkeypatch.setattr(causal, "causal_tssa", spoilt)
    found = red()
    assert any("logits" in what for what in found) and any("gradients" in what for what in found)


def test_the_gate_is_red_for_a_state_that_forgets(monkeypatch):
    right = causal.causal_tssa

    def forgetful(*args, state=None, **kwargs):
        return right(*args, state=None, **kwargs)

    monkeypatch.setattr(causal, "causal_tssa", forgetful)
    assert red() == ["tost, decoding against recomputing"]


def test_the_gate_sees_a_parameter_that_does_not_learn(monkeypatch):
    class Frozen(ToSTForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.model.blocks[0].mixer.temperature.requires_grad_(False)

    monkeypatch.setattr("tost.bench.language_models.ToSTForCausalLM", Frozen)
    said = "tost against published, gradients (worst: transformer.h.0.attn.temp does not learn)"
    assert red() == [said]


def test_softmax_grows_where_token_statistics_do_not():
    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 96}
    models = {
        name: ToSTForCausalLM(preset("nano", **options, mixer=name, position_mode="clamped")).eval()
        for name in ("tssa", "softmax")
    }
    records = growth_records(models, (16, 64), rounds=1)
    size = {(r["contestant"], r["context"]): r["state_bytes"] for r in records}
    assert size["tssa", 16] == size["tssa", 64] and size["softmax", 64] > 3 * size["softmax", 16]
    assert all(r["ms"] > 0 for r in records)


@pytest.mark.parametrize("static", [False, True])
def test_a_step_of_gpt2_looks_at_the_whole_cache(static):
    model = gpt2_model(SIZE, 64)
    cache = gpt2_cache(model, 24, static)
    token = torch.tensor([[5]])
    with torch.no_grad():
        before = model(token, past_key_values=cache).logits
        assert cache_nbytes(cache) == 2 * 2 * 25 * 32 * 4
        other = gpt2_cache(model, 24, static)
        for layer, same in zip(other.layers, cache.layers):
            layer.keys.copy_(same.keys[:, :, : layer.keys.shape[2]])
            layer.values.copy_(same.values[:, :, : layer.values.shape[2]])
        assert_close(model(token, past_key_values=other).logits, before)
        changed = gpt2_cache(model, 24, static)
        assert not torch.allclose(model(token, past_key_values=changed).logits, before)


def test_models_have_one_size_and_the_same_text():
    ours, theirs = tost_model(SIZE, 16), published_model(SIZE, 16)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    base = size_of("base")
    with torch.device("meta"):
        shares = sum(p.numel() for p in gpt2_model(base, 1024).parameters()) / sum(
            p.numel() for p in tost_model(base, 1024).parameters()
        )
    assert 1 < shares < 1.15  # separate queries, keys and values, and biases
    assert torch.equal(random_text(SIZE, 9), random_text(SIZE, 9))


def test_published_generate_scores_the_last_token_alone():
    model = published_model(SIZE, 16)
    ids = random_text(SIZE, 12)
    assert_close(model.next_logits(ids), model(ids)[:, -1])


def test_reading_in_chunks_changes_no_state():
    model = tost_model(SIZE, None, scale=1.0)
    ids = random_text(SIZE, 50)
    with torch.inference_mode():
        whole, parts = prefill.read(model, ids, 50), prefill.read(model, ids, 7)
    assert isinstance(parts, DynamicCache)
    for a, b in zip(whole.layers, parts.layers):
        for one, other in zip(a.state, b.state):
            assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_shares_of_time_name_the_products():
    w = torch.randn(256, 256)
    found = time_by_kind(lambda: torch.nn.functional.gelu(w @ w))
    assert set(found) == {*KINDS, REST} and sum(found.values()) == pytest.approx(1)
    assert found["matrix products"] > found["GELU"] > 0 == found["softmax attention"]


def test_usual_products_puts_the_choice_back(monkeypatch):
    monkeypatch.setattr(linear, "AMD", True)
    seen = usual_products(lambda: linear.AMD)()
    assert seen is False and linear.AMD is True
    with pytest.raises(OSError):
        usual_products(lambda: (_ for _ in ()).throw(OSError()))()
    assert linear.AMD is True


def test_a_step_in_place_is_the_usual_step():
    model, ids = tost_model(SIZE, None, scale=1.0), random_text(SIZE, 20)
    with torch.inference_mode():
        caches = [prefill.read(model, ids, 20) for _ in range(2)]
        tokens = [torch.tensor([[7]]) for _ in range(2)]
        places = [part.data_ptr() for layer in caches[0].layers for part in layer.state]
        steps = (
            static_step(model, caches[0], tokens[0]),
            lambda: tokens[1].copy_(model(tokens[1], past_key_values=caches[1]).logits[:, -1:].argmax(-1)),
        )
        check = check_steps((steps[0], caches[0]), (steps[1], caches[1]), "states")
        assert check.green and torch.equal(*tokens), str(check)
        assert [part.data_ptr() for layer in caches[0].layers for part in layer.state] == places
        steps[0]()
        assert not check_steps((steps[0], caches[0]), (steps[1], caches[1]), "one token apart").green


def test_the_static_cache_stays_where_it_is():
    model = gpt2_model(SIZE, 64)
    with torch.no_grad():
        cache = gpt2_cache(model, 24, static=True)
        before, step = cache_nbytes(cache), gpt2_step(model, cache, 24, static=True)
        for _ in range(5):
            step()
    assert cache_nbytes(cache) == before


def test_all_products_are_matrix_products_and_convolutions():
    conv = torch.nn.Conv2d(8, 8, 3)
    x = torch.randn(4, 8, 32, 32)
    with torch.no_grad():
        (record,) = share_records({"tost": lambda: torch.relu(conv(x)) @ torch.randn(30, 30)}, "cpu", model="m")
    assert record["convolutions"] > 0 < record["matrix products"]
    assert record["all products"] == pytest.approx(record["convolutions"] + record["matrix products"])


def test_a_failed_check_says_by_how_much():
    assert str(Check("x", 0.5, 1e-3)) == "x: off by 5.0e-01, 1e-03 allowed" and not Check("x", torch.nan, 1.0).green
