"""Tokenizers: trained on the text itself, one token a byte, or one that exists; and how many bytes each token is."""

# V tokens in the vocabulary

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tost.extras import require

EOS = "<|endoftext|>"  # GPT-2's: ends every document


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE of at most `vocab_size` tokens, those 256 of single bytes and EOS (id 0) among them.

    Returns a transformers tokenizer. Any text comes back exactly by decoding. Raises ValueError below 257 tokens.
    """
    if vocab_size < 257:
        raise ValueError(f"data.vocab_size counts 256 bytes and the end of text at least: 257, got {vocab_size}")
    parts = require("tokenizers", extra="training")
    core = parts.Tokenizer(parts.models.BPE())
    _byte_level(core, parts)
    trainer = parts.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=parts.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return _wrap(core)


def byte_tokenizer() -> Any:
    """One token a byte, its id the byte's value, and EOS as id 256; a transformers tokenizer."""
    parts = require("tokenizers", extra="training")
    core = parts.Tokenizer(parts.models.BPE({char: byte for byte, char in enumerate(byte_alphabet())}, []))
    _byte_level(core, parts)
    core.add_special_tokens([EOS])
    return _wrap(core)


def load_tokenizer(source: str) -> Any:
    """The tokenizer in a folder or of a name on the Hub; ValueError if there is none, or none with an end of text."""
    transformers = require("transformers", extra="training")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except Exception as error:  # the library raises many kinds: connection, missing, malformed
        raise ValueError(f"{source}: no tokenizer there ({str(error).splitlines()[0]})") from None
    if tokenizer.eos_token_id is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(f"{source}: expected a fast tokenizer with an end-of-text token; choose bpe, bytes or gpt2")
    return tokenizer


def encode(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    """Each text's ids with the end-of-text token after them; what looks like a special token in a text stays text."""
    core, dtype = tokenizer.backend_tokenizer, id_type(tokenizer)
    before = core.encode_special_tokens
    core.encode_special_tokens = True
    try:
        encoded = core.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        core.encode_special_tokens = before
    return [np.asarray([*one.ids, tokenizer.eos_token_id], dtype=dtype) for one in encoded]


def id_type(tokenizer: Any) -> type[np.unsignedinteger]:
    """The smallest type that holds every id."""
    return np.uint16 if len(tokenizer) <= 2**16 else np.uint32


def token_bytes(tokenizer: Any) -> np.ndarray:
    """How many bytes of text each token stands for [V] int64, 0 for special ones.

    Exact for byte-level vocabularies (GPT-2's kind) and for sentencepiece's, in which a leading space is U+2581.
    """
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kinds = str(getattr(tokenizer.backend_tokenizer, "decoder", ""))
    length = len if "ByteLevel" in kinds else _written_length
    return np.asarray([0 if i in special or name is None else length(name) for i, name in enumerate(names)])


def _written_length(name: str) -> int:
    if len(name) == 6 and name.startswith("<0x"):  # a single byte that has no token of its own
        return 1
    return len(name.removeprefix("##").replace("\u2581", " ").encode())


@functools.cache
def byte_alphabet() -> tuple[str, ...]:
    """GPT-2's printable character for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(256, 512))
    return tuple(chr(byte if byte in seen else next(hidden)) for byte in range(256))


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, which AutoTokenizer.from_pretrained reads."""
    tokenizer.save_pretrained(str(folder))


def _byte_level(core: Any, parts: Any) -> None:
    core.pre_tokenizer = parts.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = parts.decoders.ByteLevel()


def _wrap(core: Any) -> Any:
    transformers = require("transformers", extra="training")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, clean_up_tokenization_spaces=False
    )
