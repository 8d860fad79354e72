"""The language benchmark measures right models beside their rivals, and is silent about speed when one is wrong."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from tost.bench import language, language_gate, prefill
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
from tost.bench.language_plan import Plan, make_plan
from tost.bench.language_speed import decode_records
from tost.bench.language_tables import timed
from tost.bench.products import KINDS, REST, time_by_kind, usual_products
from tost.models.language import ToSTForCausalLM, preset
from tost.nn import causal, linear

SIZE = Size(32, 2, 2, 96)
SMALL = Plan("small", SIZE, (24, 48), 32, 24, ((64, 0), (128, 32)), 2, 30.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Small models gain nothing from a second thread, and wait for it where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    assert [what.split(" {")[0] for what in red()] == ["tost against published, which parameters learn"]


def test_a_red_gate_prints_no_speed_up(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(language, "make_plan", lambda *_: SMALL)
    monkeypatch.setattr(
        language, "check_models", lambda _: [language_gate.Check("logits", 1.0, 1e-5), language_gate.Check("x", 0, 1)]
    )
    assert language.bench_language(quick=True, out=tmp_path) == 1
    told = capsys.readouterr()
    assert told.out == "" and "wrong results" in told.err and "logits: off by 1.0e+00" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["language.json"]


def test_a_green_run_reports_and_writes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(language, "make_plan", lambda *_: SMALL)
    assert language.bench_language(quick=True, out=tmp_path, json=tmp_path / "all.json") == 0
    text = capsys.readouterr().out
    for told in ("Gate: green", "| GPT-2, cache allocated beforehand | ", "chunks of 32", "with logits of all tokens"):
        assert told in text
    found = json.loads((tmp_path / "language.json").read_text())
    assert json.loads((tmp_path / "all.json").read_text()) == found
    assert (tmp_path / "language.csv").read_text().startswith("what,")
    assert {r["contestant"] for r in found["forward"]} == {"tost", "tost_usual", "published", "gpt2"}
    assert {r["contestant"] for r in found["training"]} == {"tost", "tost_usual", "published", "gpt2"}
    for shares in (found["forward_shares"], found["training_shares"]):
        assert all(sum(share.values()) == pytest.approx(1) for share in shares.values())
        assert all(share["matrix products"] > 0 for share in shares.values())
    if sys.platform == "linux":
        assert all(r["bytes"] > 0 for r in found["prefill"])


def test_decoding_keeps_a_state_that_does_not_grow():
    found = {(r["contestant"], r["context"]): r["state_bytes"] for r in decode_records(SMALL)}
    H, D = 2, 16
    assert found["tost", 24] == found["tost", 48] == 2 * 8 * (H * (2 * D + 1) + 1)
    for name in ("gpt2_dynamic", "gpt2_static"):
        assert found[name, 48] > 1.9 * found[name, 24]
    assert found["gpt2_dynamic", 24] == 2 * 2 * 24 * 32 * 4
    assert ("published", 24) in found and ("published", 48) not in found


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


def test_a_child_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(prefill.sys, "executable", "false")
    (record,) = prefill.prefill_records([(64, 0)])
    assert record["bytes"] is None and "stopped" in record["note"]


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


def test_plans():
    full, quick = make_plan(False), make_plan(True)
    assert full.size == Size(768, 12, 12, 50304) and full.contexts == (512, 2048, 8192, 32768)
    assert full.forward_tokens == 4096 and full.training_tokens == 1024 and (1048576, 4096) in full.prefill
    assert max(quick.contexts) < 4096 and make_plan(True, "tiny").size == size_of("tiny")


def test_times_say_the_factor():
    assert timed({"contestant": "gpt2", "ms": 12.34, "over_tost": 1.234}) == "12.3 (1.23x)"
    assert timed({"contestant": "tost", "ms": 1234.5, "over_tost": 1.0}) == "1,234"
    assert timed({"contestant": "published", "ms": 200.0, "over_tost": 23.4}) == "200 (23x)"


@pytest.mark.parametrize("arguments", [{"rounds": 0}, {"model": "bose"}])
def test_senseless_requests_are_refused(arguments):
    with pytest.raises(ValueError, match=r"at least 1|unknown preset"):
        language.bench_language(**arguments)
