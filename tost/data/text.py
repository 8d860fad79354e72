"""Text from where it lies (the standard library's source, files, a Hugging Face dataset), split by document and packed.

A document trains, is watched or is held out by a hash of its content: always the same way, and its copies with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from tost.data import texts
from tost.data.packing import MemoryDocuments, PackedText
from tost.data.tokens import byte_tokenizer, encode, load_tokenizer, token_bytes, train_bpe

BPE_BYTES = 64 * 2**20  # a vocabulary is learned from so much of the training text at most


@dataclass
class TextOptions:
    """Which text is read and how it becomes tokens; the names are those of `data` in a language recipe."""

    source: str = "stdlib"
    path: str | None = None
    subset: str | None = None
    split: str = "train"
    column: str = "text"
    section: int = 0
    validation: float = 0.02
    test: float = 0.02
    tokenizer: str = "bpe"
    vocab_size: int = 4096
    context: int = 256
    workers: int = 0


@dataclass
class TextSets:
    """What a language recipe trains on, watches, and is judged by: rows of packed tokens, and how they came about.

    token_bytes: bytes each token stands for [V].  facts: counts of documents, bytes and tokens, and a fingerprint.
    """

    train: PackedText
    validation: PackedText | None
    test: PackedText
    tokenizer: Any
    token_bytes: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


def load_text(options: TextOptions, tokenizer: Any = None) -> TextSets:
    """Read, split, tokenise and pack the text of `options`; with `tokenizer` the one at hand is used.

    Raises ValueError or OSError in one line: no text, a file that is not UTF-8, unknown data set, too few documents.
    """
    _check(options)
    if options.source == "hub" or texts.large(options):
        from tost.data.tables import load_table  # needs the package datasets

        return load_table(options, tokenizer)
    documents, empty = _without_empty(texts.read_documents(options))
    if not documents:
        raise ValueError(f"{texts.place(options)}: no text in it ({empty} empty documents); set --data.path to some")
    hashes, sizes = _measure(documents)
    parts = split_documents(hashes, sizes, options.validation, options.test)
    tokenizer = tokenizer or make_tokenizer(options, (documents[i] for i in parts[0]))
    held = MemoryDocuments([ids for batch in _batches(documents, 256) for ids in encode(tokenizer, batch)])
    return packed(options, held, parts, tokenizer, hashes, sizes, empty)


def held_out_text(options: TextOptions) -> tuple[str, str]:
    """(training text, test text) of a source that fits in memory, each joined: what a compressor is compared on."""
    documents, _ = _without_empty(texts.read_documents(options))
    train, _, test = split_documents(*_measure(documents), options.validation, options.test)
    return "".join(documents[i] for i in train), "".join(documents[i] for i in test)


def packed(
    options: TextOptions,
    documents: Any,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    tokenizer: Any,
    hashes: np.ndarray,
    sizes: np.ndarray,
    empty: int,
) -> TextSets:
    """The three parts as rows, and the facts about them."""
    sets = [PackedText(documents, part, options.context, tokenizer.eos_token_id) for part in parts]
    facts: dict[str, Any] = {
        name: {"documents": len(part), "bytes": int(sizes[part].sum()), "tokens": rows.tokens, "rows": len(rows)}
        for name, part, rows in zip(("train", "validation", "test"), parts, sets)
    }
    told = hashlib.sha256(hashes.tobytes() + documents.lengths.tobytes())
    facts |= {"empty_documents": empty, "vocabulary": len(tokenizer), "fingerprint": told.hexdigest()[:16]}
    return TextSets(sets[0], sets[1] if len(parts[1]) else None, sets[2], tokenizer, token_bytes(tokenizer), facts)


def make_tokenizer(options: TextOptions, training_text: Iterable[str]) -> Any:
    """The tokenizer of `options`; a BPE is learned from the training documents alone."""
    if options.tokenizer == "bytes":
        return byte_tokenizer()
    if options.tokenizer == "bpe":
        return train_bpe(_limited(training_text, BPE_BYTES), options.vocab_size)
    return load_tokenizer(options.tokenizer)


def content_hash(document: str) -> int:
    """63 bits of a document's content."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "little") >> 1


def split_documents(
    hashes: np.ndarray, sizes: np.ndarray, validation: float, test: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the documents (train, validation, test), the shares counted in bytes, chosen by the hashes.

    Each part that is wanted gets at least one document; equal documents share a part.
    """
    order = np.argsort(hashes, kind="stable")
    ends = np.cumsum(sizes[order]) / max(1, int(sizes.sum()))
    kinds = len(np.unique(hashes))
    if kinds < 2 + (validation > 0):
        raise ValueError(
            f"the text has {kinds} different document{'s' * (kinds != 1)}, too few to hold some out; give more files, "
            "or cut them into documents with --data.section 16384"
        )
    held = _first_after(hashes[order], ends, test, 0)
    watched = _first_after(hashes[order], ends, test + validation, held) if validation else held
    if watched == len(order):
        raise ValueError("the text is too short to train on after holding some out; lower --data.test, or give more")
    return np.sort(order[watched:]), np.sort(order[held:watched]), np.sort(order[:held])


def _first_after(hashes: np.ndarray, ends: np.ndarray, share: float, begin: int) -> int:
    """The first place after `begin` at which `share` of the text is passed and another hash begins."""
    at = max(int(np.searchsorted(ends, share, side="right")), begin + 1)
    while at < len(hashes) and hashes[at] == hashes[at - 1]:
        at += 1
    return at


def _check(options: TextOptions) -> None:
    if min(options.validation, options.test) < 0 or not 0 < options.test < 1 - options.validation:
        raise ValueError(
            f"data.validation ({options.validation}) and data.test ({options.test}) are shares of the text: both below "
            "1 together, and data.test above 0"
        )
    if options.context < 2:
        raise ValueError(f"data.context counts the tokens of a row, 2 at least, got {options.context}")
    if options.section < 0:
        raise ValueError(f"data.section counts bytes, 0 = a file is a document, got {options.section}")


def _without_empty(documents: Iterable[str]) -> tuple[list[str], int]:
    """(documents with something in them, how many had nothing)."""
    everything = list(documents)
    kept = [document for document in everything if document.strip()]
    return kept, len(everything) - len(kept)


def _measure(documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, bytes) of the documents."""
    hashes = np.asarray([content_hash(document) for document in documents], dtype=np.int64)
    return hashes, np.asarray([len(document.encode()) for document in documents])


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _limited(documents: Iterable[str], limit: int) -> Iterator[str]:
    """Documents until their characters pass `limit`."""
    seen = 0
    for document in documents:
        yield document
        seen += len(document)
        if seen >= limit:
            return
