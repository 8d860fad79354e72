"""Language models on text: surprise by token and by byte, last words, closed questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tost.data.tokens import token_bytes
from tost.evaluation.cloze import cloze
from tost.evaluation.intervals import ratio_interval, wilson_interval
from tost.evaluation.scoring import Context, Scores, default_context, score, tokens
from tost.evaluation.sets import TextSet, load_text_set
from tost.generation import load_language


def evaluate_text(
    run: str | Path,
    *,
    data: str | None = None,
    path: str | None = None,
    context: str = "sliding",
    length: int | None = None,
    stride: int | None = None,
    chunk: int | None = None,
    batch_size: int = 256,
    position_mode: str | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """How surprised a language model is by a text.

    data: wikitext, lambada, ptb, cbt, openwebtext (from the Hub, or the copy at `path`), a text file, or None: the
    documents that the run's own recipe holds out.  context, length, stride, chunk: see scoring.Context; by default the
    model's positions, and half of them.
    Returns {"run", "data", "text" (what was scored), "context", "documents", "tokens", "bytes", "loss" (nats a token),
    "interval" (95%, by documents, or None), "perplexity", "bits_per_byte"}; of lambada also the last word's
    "accuracy", of cbt "parts" with an accuracy each instead.
    Raises ValueError for a run or a text that cannot be read, and a context that the model cannot be given.
    """
    model, tokenizer = load_language(run, device=device, position_mode=position_mode)
    chosen = default_context(
        model.config, kind=context, length=length, stride=stride, chunk=chunk, batch_size=batch_size
    )
    given = {"length": chosen.length, "stride": chosen.stride} if context == "sliding" else {"chunk": chosen.chunk}
    result = {"run": str(run), "data": data or "held out", "context": context, **given}
    if data is None:
        if path is not None:
            raise ValueError("--path is where a known set lies; name it with --data, or give a file as --data FILE")
        documents, told = held_out(Path(run), tokenizer)
        return {**result, "text": told, **measure(model, tokenizer, documents, chosen)}
    texts = load_text_set(data, path)
    result |= {"data": texts.name, "text": texts.told}
    if texts.questions:
        return {
            **result,
            "parts": {name: cloze(model, tokenizer, part, chosen) for name, part in texts.questions.items()},
        }
    if texts.name == "lambada":
        return {**result, **last_words(model, tokenizer, texts.documents, chosen)}
    return {**result, **measure(model, tokenizer, tokens(tokenizer, texts.documents), chosen, texts)}


def held_out(folder: Path, tokenizer: Any) -> tuple[list[Tensor], str]:
    """(ids [N] of every document that a run's recipe holds out, its end-of-text token included, what they are)."""
    from tost.data.text import load_text
    from tost.training.language import text_options
    from tost.training.runs import read_config, read_summary

    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} has no recipe that holds out text; say what to score with --data")
    recipe: Any = read_config(folder)
    text = load_text(text_options(recipe), tokenizer)
    before = (read_summary(folder) or {}).get("data", {}).get("fingerprint")
    if before not in (None, text.facts["fingerprint"]):
        raise ValueError(
            f"the text of {folder} has changed since it was trained; restore it, or name a text with --data"
        )
    place = "the standard library" if recipe.data.source == "stdlib" else recipe.data.path
    ids = [torch.from_numpy(text.test.documents.read(i).astype(np.int64)) for i in text.test.order]
    return ids, f"the documents of {place} that the recipe holds out, each by itself, with its end-of-text token"


def measure(
    model: Any, tokenizer: Any, documents: list[Tensor], context: Context, texts: TextSet | None = None
) -> dict[str, Any]:
    """Figures of documents [N], each by itself or, where `texts` says so, joined."""
    if texts is not None and texts.joined:
        whole = torch.cat(documents)
        ends = [max(0, end - 1) for end in accumulate(map(len, documents))]  # the first token is never predicted
        found = score(model, [whole], context)[0]
        parts = [0, *ends]
        scores = [Scores(found.nats[a:b], found.hits[a:b]) for a, b in zip(parts, parts[1:])]
        targets = [whole[1 + a : 1 + b] for a, b in zip(parts, parts[1:])]
    else:
        scores = score(model, documents, context)
        targets = [ids[1:] for ids in documents]
    return summary(scores, targets, token_bytes(tokenizer))


def summary(scores: Sequence[Scores], targets: Sequence[Tensor], sizes: np.ndarray) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of scored documents.  targets: their predicted ids; sizes: bytes by id [V]."""
    nats = [float(one.nats.sum()) for one in scores]
    counts = [len(ids) for ids in targets]
    size = sum(int(sizes[ids.numpy()].sum()) for ids in targets)
    if not sum(counts):
        raise ValueError("the text has no token after its first, so there is nothing to predict; give a longer one")
    loss = sum(nats) / sum(counts)
    filled = [(t, c) for t, c in zip(nats, counts) if c]
    return {
        "documents": len(filled),
        "tokens": sum(counts),
        "bytes": size,
        "loss": loss,
        "interval": ratio_interval([t for t, _ in filled], [c for _, c in filled]),
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_byte": sum(nats) / math.log(2) / size if size else None,
    }


def last_words(model: Any, tokenizer: Any, passages: Sequence[str], context: Context) -> dict[str, Any]:
    """LAMBADA: surprise over all tokens, as the paper counts it, and whether the likeliest tokens are the last word.

    The last word is what follows the last space, that space included; its perplexity is by word, not by token.
    """
    whole = tokens(tokenizer, passages)
    begun = tokens(tokenizer, [passage.rstrip().rpartition(" ")[0] for passage in passages])
    scores = score(model, whole, context)
    width = [min(len(ids) - len(before), len(ids) - 1) for ids, before in zip(whole, begun)]
    right = sum(bool(one.hits[len(one.hits) - n :].all()) for one, n in zip(scores, width))
    word = sum(float(one.nats[len(one.nats) - n :].sum()) for one, n in zip(scores, width)) / len(passages)
    return {
        **summary(scores, [ids[1:] for ids in whole], token_bytes(tokenizer)),
        "right": right,
        "passages": len(passages),
        "accuracy": right / len(passages),
        "accuracy_interval": wilson_interval(right, len(passages)),
        "last_word_loss": word,
        "last_word_perplexity": math.exp(min(word, 700)),
    }
