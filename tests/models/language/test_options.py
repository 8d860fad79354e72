"""Everything that holds for the published model holds for every option: streams, padding, packing, generation, disk."""

import pytest
import torch
from torch.testing import assert_close

from tests.models.language.common import L, V, pad, text, tiny
from tost.models.language import load_state, resume, save_state, select_state, state_nbytes

OPTIONS = {
    "published": {},
    "forgetting": {"half_lives": [4, 16, 0], "position_mode": "none"},
    "learned-decay": {"half_lives": [2, 4, 8], "learn_decay": True, "position_mode": "clamped"},
    "conv": {"conv_width": 4},
    "softmax": {"mixer": "softmax"},
    "hybrid": {"mixer": ["tssa", "softmax"], "conv_width": 3, "half_lives": [4, 16, 0], "position_mode": "rotary"},
    "means": {"group_means": True, "separate_values": True, "half_lives": [4, 16, 0], "position_mode": "clamped"},
    "full": {"full_covariance": True, "length_temperature": True},
    "gated": {"output_gate": True, "head_norm": True, "group_means": True, "conv_width": 2, "half_lives": [8]},
    "controls": {"mixer": ["none", "token"], "conv_width": 2},
    "gated-others": {"mixer": ["softmax", "token"], "output_gate": True, "head_norm": True},
    "llama": {"mixer": "softmax", "position_mode": "rotary", "norm": "rms", "mlp": "swiglu", "layer_scale_init": None},
}
options = pytest.mark.parametrize("name", OPTIONS)


def model_of(name, **more):
    return tiny(**{**OPTIONS[name], **more}).double()


@options
@pytest.mark.parametrize("cuts", [(1, 2), (5, 17)])
def test_chunks_give_what_one_pass_gives(name, cuts):
    model, ids = model_of(name), text(20, batch=2)
    whole = model(ids, use_cache=False).logits
    cache, parts = None, []
    for chunk in ids.tensor_split(cuts, dim=1):
        out = model(chunk, past_key_values=cache, use_cache=True)
        cache, parts = out.past_key_values, [*parts, out.logits]
    assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


@options
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_changes_no_real_token(name, side):
    model, rows = model_of(name), [text(n, seed=n)[0] for n in (9, 5, 1)]
    ids, mask = pad(rows, side, length=12)
    batched = model(ids, attention_mask=mask, use_cache=False).logits
    first = model(ids[:, :7], attention_mask=mask[:, :7], use_cache=True)
    second = model(ids[:, 7:], attention_mask=mask, past_key_values=first.past_key_values)
    streamed = torch.cat([first.logits, second.logits], 1)
    for i, row in enumerate(rows):
        alone = model(row[None], use_cache=False).logits[0]
        assert_close(batched[i, mask[i].bool()], alone, rtol=0, atol=1e-12)
        assert_close(streamed[i, mask[i].bool()], alone, rtol=0, atol=1e-12)


@options
def test_packed_documents_see_nothing_of_each_other(name):
    model, ids = model_of(name).train(), text(30, batch=2)
    bounds = torch.tensor([0, 4, 5, 5, 30, 47, 60])
    packed = model(ids, labels=ids, cu_seqlens=bounds)
    documents = [ids.flatten()[None, a:b] for a, b in zip(bounds, bounds[1:]) if b > a]
    alone = [model(document).logits[0] for document in documents]
    assert_close(packed.logits.flatten(0, 1), torch.cat(alone), rtol=0, atol=1e-12)

    # the loss is the mean over the tokens that have one before them in their document
    targets = [document[0, 1:] for document in documents]
    loss = torch.nn.functional.cross_entropy(torch.cat([x[:-1] for x in alone]), torch.cat(targets))
    assert_close(packed.loss, loss.float(), rtol=1e-6, atol=0, check_dtype=False)
    gradients = [torch.autograd.grad(x, list(model.parameters()), allow_unused=True) for x in (packed.loss, loss)]
    for (label, _), ours, theirs in zip(model.named_parameters(), *gradients):
        if ours is not None or theirs is not None:
            assert_close(ours, theirs, rtol=1e-5, atol=1e-8, msg=lambda m, label=label: f"{label}: {m}")


@options
def test_packing_and_padding_together(name):
    model, ids = model_of(name), text(12, batch=2)
    mask = torch.ones_like(ids)
    mask[0, [0, 4, 5]] = mask[1, [7, 11]] = 0
    bounds = torch.tensor([0, 7, 12, 24])
    logits = model(ids, attention_mask=mask, cu_seqlens=bounds).logits.flatten(0, 1)
    flat, real = ids.flatten(), mask.flatten().bool()
    for a, b in zip(bounds, bounds[1:]):
        keep = torch.arange(a, b)[real[a:b]]
        assert_close(logits[keep], model(flat[keep][None], use_cache=False).logits[0], rtol=0, atol=1e-12)


@options
def test_every_parameter_learns(name):
    model = model_of(name).train()
    model(text(L, batch=2), labels=text(L, batch=2, seed=3)).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent, f"no gradient for {silent}"


@options
@pytest.mark.parametrize(
    "how",
    [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 4}],
    ids=["greedy", "beams", "lookup", "chunks"],
)
def test_generation_equals_recomputing(name, how):
    model, prompt = model_of(name), text(9).repeat(1, 2)
    plain = {key: value for key, value in how.items() if key == "num_beams"}
    expected = model.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=False, **plain)
    assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False, **how), expected)


@options
def test_a_saved_state_goes_on(name, tmp_path):
    model, ids = model_of(name), text(16, batch=2)
    cache = model(ids[:, :9], use_cache=True).past_key_values
    save_state(cache, tmp_path / "state.safetensors", model)
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    loaded = load_state(tmp_path / "state.safetensors", again)
    assert state_nbytes(loaded) == state_nbytes(cache)
    fork = select_state(loaded, [1, 0, 1])
    rest = again(**resume(fork, ids[[1, 0, 1], 9:])).logits
    assert_close(rest, model(ids, use_cache=False).logits[[1, 0, 1], 9:], rtol=0, atol=1e-12)


@options
def test_gradient_checkpointing_changes_nothing(name):
    model, ids = model_of(name).train(), text(14, batch=2)
    plain = torch.autograd.grad(model(ids, labels=ids).loss, list(model.parameters()), allow_unused=True)
    model.gradient_checkpointing_enable()
    again = torch.autograd.grad(model(ids, labels=ids).loss, list(model.parameters()), allow_unused=True)
    for one, other in zip(plain, again):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))


def test_a_softmax_layer_grows_and_the_others_do_not():
    model = model_of("hybrid", position_mode="none")
    cache = model(text(10), use_cache=True).past_key_values
    before = [layer.nbytes for layer in cache.layers]
    model(text(30), past_key_values=cache)
    assert cache.layers[0].nbytes == before[0] and cache.layers[1].nbytes > 3 * before[1]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([0, 5, 20], "hold every row's start"),
        ([0, 10, 5, 20], "rise from 0 to 20"),
        ([0, 10, 19], "rise from 0 to 20"),
        ([[0, 10, 20]], r"cu_seqlens \[S \+ 1\]"),
    ],
)
def test_impossible_packing(bounds, message):
    with pytest.raises(ValueError, match=message):
        tiny()(text(10, batch=2), cu_seqlens=torch.tensor(bounds))


def test_packing_keeps_no_cache():
    with pytest.raises(ValueError, match="keeps no cache of packed documents"):
        tiny()(text(10), cu_seqlens=torch.tensor([0, 4, 10]), use_cache=True)


def test_an_unknown_token_is_named_in_a_hybrid():
    with pytest.raises(ValueError, match=f"token ids 0..{V - 1}, got {V}"):
        model_of("hybrid")(torch.tensor([[1, V]]))


def test_positions_stretch_to_another_length():
    model = tiny().double()
    before, bias = model.model.positions.weight.clone(), model.model.blocks[1].mixer.position_bias.clone()
    model.resize_position_embeddings(2 * L - 1)
    assert model.config.max_position_embeddings == 2 * L - 1
    assert_close(model.model.positions.weight[::2], before, rtol=0, atol=1e-6)
    assert_close(model.model.positions.weight[1::2], (before[1:] + before[:-1]) / 2, rtol=0, atol=1e-6)
    assert_close(model.model.blocks[1].mixer.position_bias[:, ::2], bias, rtol=0, atol=1e-6)
    assert model(text(2 * L - 1)).logits.isfinite().all()
    with pytest.raises(ValueError, match="a model with learned positions"):
        tiny(position_mode="none").resize_position_embeddings(9)
