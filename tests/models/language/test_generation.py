"""Every mode of generate gives, token by token and score by score, what recomputing the whole sequence gives."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, PreTrainedTokenizerFast, pipeline

from tests.models.language.common import V, pad, text, tiny
from tost.models.language import ToSTForCausalLM, resume

NEW = 14

MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.3, "top_p": 0.9},
    "beams": {"do_sample": False, "num_beams": 3},
    "beam-sample": {"do_sample": True, "num_beams": 3},
    "several-samples": {"do_sample": True, "num_return_sequences": 3},
    "several-beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "penalties": {"do_sample": False, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
}


def generate(model, ids, use_cache=True, **options):
    torch.manual_seed(0)
    return model.generate(ids, max_new_tokens=NEW, use_cache=use_cache, pad_token_id=0, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("positions", ["learned", "none"])
def test_mode_equals_recomputing(mode, positions):
    model, ids = tiny(position_mode=positions), text(6, batch=2)
    options = {"return_dict_in_generate": True, "output_logits": True, **MODES[mode]}
    got, want = generate(model, ids, **options), generate(model, ids, use_cache=False, **options)
    assert torch.equal(got.sequences, want.sequences)
    assert_close(torch.stack(got.logits), torch.stack(want.logits), rtol=1e-4, atol=1e-4)
    assert got.sequences.shape[1] == 6 + NEW


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_prompts_of_different_lengths(mode):
    model = tiny()
    rows = [text(n, seed=n)[0] for n in (9, 2, 5)]
    ids, mask = pad(rows, "left")
    together = generate(model, ids, attention_mask=mask, **MODES[mode])
    for i, row in enumerate(rows):
        alone = generate(model, row[None], **MODES[mode])
        assert torch.equal(together[i, -NEW:], alone[0, -NEW:])
    assert torch.equal(together, generate(model, ids, use_cache=False, attention_mask=mask, **MODES[mode]))


def test_tokens_processed_are_the_prompt_and_the_new_ones():
    model, ids, seen = tiny(), text(10), []
    hook = model.model.blocks[0].mixer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    generate(model, ids, do_sample=False)
    assert seen == [10] + [1] * (NEW - 1)  # the last token is never fed
    seen.clear()
    generate(model, ids, do_sample=False, use_cache=False)
    hook.remove()
    assert sum(seen) == sum(range(10, 10 + NEW))


@pytest.mark.parametrize("size", [1, 4, 10, 99])
def test_prefill_in_chunks(size):
    model, ids = tiny(), text(23, batch=2)
    widest = []
    hook = model.model.blocks[0].mixer.register_forward_pre_hook(lambda _, args: widest.append(args[0].shape[1]))
    got = generate(model, ids, do_sample=False, prefill_chunk_size=size)
    hook.remove()
    assert max(widest) == min(size, 23) and sum(widest) == 23 + NEW - 1
    assert torch.equal(got, generate(model, ids, do_sample=False, use_cache=False))
    rows = [text(n, seed=n)[0] for n in (11, 3)]
    padded, mask = pad(rows, "left")
    got = generate(model, padded, attention_mask=mask, do_sample=False, prefill_chunk_size=size)
    assert torch.equal(got, generate(model, padded, attention_mask=mask, do_sample=False, use_cache=False))


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_feeding_piece_by_piece(cut):
    model, ids = tiny(), text(12, batch=2)
    whole = model(ids).logits
    cache = DynamicCache(config=model.config)
    pieces = [model(piece, past_key_values=cache).logits for piece in (ids[:, :cut], ids[:, cut:])]
    assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    one_by_one = DynamicCache(config=model.config)
    steps = [model(ids[:, i : i + 1], past_key_values=one_by_one).logits for i in range(12)]
    assert_close(torch.cat(steps, 1), whole, rtol=1e-5, atol=1e-5)


def assistant(**options):
    model = tiny(**options)
    model.generation_config.num_assistant_tokens = 5
    model.generation_config.num_assistant_tokens_schedule = "constant"
    model.generation_config.assistant_confidence_threshold = 0.0
    return model


@pytest.mark.parametrize(
    ("options", "most", "least"),
    [
        ({"assistant_model": assistant(seed=1, num_hidden_layers=1)}, 99, 2 * NEW),  # guesses are fed and taken back
        ({"assistant_model": assistant()}, 3, NEW),  # 5 of its own guesses and a token more at each call
        ({"assistant_model": assistant(), "do_sample": True, "top_k": 1}, 3, NEW),
        ({"prompt_lookup_num_tokens": 3}, NEW, NEW),
    ],
    ids=["a stranger", "itself", "sampling", "prompt lookup"],
)
def test_assisted_decoding_rolls_back(options, most, least):
    model, ids = tiny(), text(4).repeat(1, 3)  # repeats, so that looking up the prompt finds something
    greedy = generate(model, ids, do_sample=False)
    fed = []
    hook = model.model.register_forward_hook(lambda _, args, out: fed.append(args[0].shape[1]))
    got = generate(model, ids, **{"do_sample": False, **options})
    hook.remove()
    assert torch.equal(got, greedy)
    assert len(fed) <= most and sum(fed) >= ids.shape[1] + least - 1


@pytest.mark.parametrize("kind", ["static", "offloaded"])
def test_named_caches_are_the_same_state(kind):
    model, ids = tiny(), text(6, batch=2)
    got = generate(model, ids, do_sample=False, cache_implementation=kind)
    assert torch.equal(got, generate(model, ids, do_sample=False))


def test_going_on_from_a_returned_cache():
    model, ids = tiny(position_mode="none"), text(6, batch=2)
    first = generate(model, ids, do_sample=False, return_dict_in_generate=True)
    further = generate(model, first.sequences, do_sample=False, past_key_values=first.past_key_values)
    assert torch.equal(further, generate(model, first.sequences, do_sample=False))


@pytest.mark.parametrize("side", ["left", "right"])
def test_going_on_with_new_tokens_alone(side):
    model = tiny()
    rows = [text(n, seed=n)[0] for n in (9, 4)]
    ids, mask = pad(rows, side)
    new = text(3, batch=2, seed=7)
    cache = model(ids, attention_mask=mask).past_key_values
    got = model.generate(**resume(cache, new), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    for i, row in enumerate(rows):
        alone = generate(model, torch.cat([row, new[i]])[None], do_sample=False)
        assert torch.equal(got[i, -NEW:], alone[0, -NEW:])


def test_new_tokens_alone_without_the_mask_are_refused():
    model = tiny()
    cache = model(text(9)).past_key_values
    with pytest.raises(ValueError, match=r"generate got 3 tokens and a cache of 9.*resume\(cache, new_tokens\)"):
        model.generate(text(3), past_key_values=cache, max_new_tokens=2)


def test_beginning_from_embeddings():
    model, ids = tiny(), text(6, batch=2)
    embedded = model.get_input_embeddings()(ids)
    got = model.generate(inputs_embeds=embedded, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert torch.equal(got, generate(model, ids, do_sample=False)[:, 6:])


def test_running_past_the_learned_positions():
    model = tiny()
    with pytest.raises(ValueError, match="position_mode='clamped'"):
        model.generate(text(40), max_new_tokens=20, do_sample=False)
    clamped = tiny(position_mode="clamped")
    got = clamped.generate(text(40), max_new_tokens=40, do_sample=False)
    want = clamped.generate(text(40), max_new_tokens=40, do_sample=False, use_cache=False)
    assert got.shape == (1, 80) and torch.equal(got, want)


def test_text_generation_pipeline(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, **{f"w{i}": i for i in range(1, V)}}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[PAD]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", padding_side="left")
    model = tiny()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write = pipeline("text-generation", model=str(tmp_path), batch_size=2)
    assert isinstance(write.model, ToSTForCausalLM)
    write.model.generation_config.max_length = None
    prompts = ["w5 w6 w7 w8", "w9"]
    out = write(prompts, max_new_tokens=6, do_sample=False, return_full_text=False)
    for prompt, answer in zip(prompts, out):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert answer[0]["generated_text"].split() == [f"w{i}" for i in new.tolist()]
