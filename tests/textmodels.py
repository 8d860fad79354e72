"""Folders of small language models with a tokenizer, nothing in them at its initial value."""

from tests.models.language.common import tiny
from tost.data.tokens import train_bpe
from tost.generation.load import quietly

TEXT = "the cat sat on the mat, and the dog saw the cat; then they all sat down and ate. " * 4 + "Übung macht müde\n"


def tokenizer(vocab_size=300):
    return train_bpe([TEXT], vocab_size)


def save_model(folder, seed=0, **options):
    """A model of save_pretrained in `folder`, with its tokenizer; returns both."""
    words = tokenizer()
    model = tiny(seed, vocab_size=len(words), eos_token_id=words.eos_token_id, **options)
    model.generation_config.eos_token_id = words.eos_token_id
    with quietly():
        model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model, words


def full_nats(model, ids):
    """-log p of ids[1:], from one forward pass over all of `ids` [N]."""
    logits = model(ids[None, :-1], use_cache=False).logits[0].double()
    return -logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
