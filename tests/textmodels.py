"""Folders of small language models with a tokenizer, nothing in them at its initial value."""

import torch

from tests.models.language.common import tiny
from tost.data.tokens import train_bpe
from tost.generation.load import quietly

PROMPT = "the cat sat"
TEXT = "the cat sat on the mat, and the dog saw the cat; then they all sat down and ate. " * 4 + "Übung macht müde\n"


def tokenizer(vocab_size=300):
    return train_bpe([TEXT], vocab_size)


def save_model(folder, seed=0, **options):
    """A model of save_pretrained in `folder`, with its tokenizer; returns both."""
    words = tokenizer()
    model = tiny(seed, vocab_size=len(words), eos_token_id=words.eos_token_id, **options)
    model.generation_config.eos_token_id = words.eos_token_id
    with torch.no_grad():
        model.model.embedding.weight[words.eos_token_id] = 0  # the likeliest token never ends a text
    with quietly():
        model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model, words


def full_nats(model, ids):
    """-log p of ids[1:], from one forward pass over all of `ids` [N]."""
    logits = model(ids[None, :-1], use_cache=False).logits[0].double()
    return -logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]


def greedy(saved, text, n, **options):
    """The text that transformers' own generate writes after `text`.  saved: (folder, model, tokenizer)."""
    _, model, words = saved
    ids = words(text, return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=n, do_sample=False, pad_token_id=0, **options)[0]
    return words.decode(out[ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
