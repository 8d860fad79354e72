"""How surprised a model is by each token of a text, with the context that it is given."""

# N tokens of a document, the first of them never predicted; L tokens of context, S the stride, V = vocab_size

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache

from tost.data.tokens import encode
from tost.models.language import ToSTConfig

LOGITS = 2**27  # numbers in one tensor of logits, at most
TOKENS = 2**14  # tokens in one call, at most


@dataclass
class Context:
    """What a token is predicted from.

    sliding: windows of `length` tokens, each `stride` further; a token is scored once, in the first window that reaches
    it, and so has length - stride tokens before it at least, where the text has them.
    streaming: all tokens before it; the text passes once, in chunks of `chunk` tokens, and the state is carried over.
    batch_size: windows, or texts of the same length, at once; fewer where memory asks for it.
    """

    kind: Literal["sliding", "streaming"] = "sliding"
    length: int = 1024
    stride: int = 512
    chunk: int = 1024
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.kind not in ("sliding", "streaming"):
            raise ValueError(f"expected context sliding or streaming, got {self.kind!r}")
        if not 1 <= self.stride <= self.length:
            raise ValueError(f"expected 1 <= stride <= length, got stride {self.stride} and length {self.length}")
        if self.chunk < 1 or self.batch_size < 1:
            raise ValueError(f"expected chunk and batch_size of at least 1, got {self.chunk} and {self.batch_size}")

    def check(self, config: Any, longest: int) -> None:
        """ValueError, with the way out, if a model cannot be given this context on a text of `longest` tokens."""
        table = position_limit(config)
        if self.kind == "sliding" and table is not None and self.length > table:
            raise ValueError(
                f"the model has positions for {table} tokens, got --length {self.length}; lower it, or load the model "
                "with --position_mode clamped"
            )
        if self.kind == "streaming" and not isinstance(config, ToSTConfig):
            raise ValueError(f"a {config.model_type} has no state to carry over; choose --context sliding")
        if self.kind == "streaming" and table is not None and longest - 1 > table:
            raise ValueError(
                f"the model has learned positions for {table} tokens, got a text of {longest} to stream; load it with "
                "--position_mode clamped, or choose --context sliding"
            )


class Scores(NamedTuple):
    """Of the predicted tokens of a document: surprise in nats [N - 1] float64, and whether each was the likeliest."""

    nats: Tensor
    hits: Tensor


def position_limit(config: Any) -> int | None:
    """Tokens at which the positions of a model end, None if they don't."""
    if isinstance(config, ToSTConfig) and config.position_mode != "learned":
        return None
    return getattr(config, "max_position_embeddings", None)


def default_context(config: Any, **given: Any) -> Context:
    """A context of the model's positions and half of them for a stride, unless `given` says otherwise."""
    length = given.get("length") or getattr(config, "max_position_embeddings", None) or 1024
    chosen = {"length": length, "stride": max(1, length // 2)}
    return Context(**{**chosen, **{name: value for name, value in given.items() if value is not None}})


def tokens(tokenizer: Any, texts: Sequence[str]) -> list[Tensor]:
    """Each text's ids [N] int64, nothing added; what looks like a special token stays text."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError("evaluation needs a fast tokenizer (a tokenizer.json), got a slow one")
    if tokenizer.eos_token_id is None:
        return [
            torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64) for text in texts
        ]
    return [torch.from_numpy(ids[:-1].astype(np.int64)) for ids in encode(tokenizer, list(texts))]


@torch.inference_mode()
def score(model: Any, documents: Sequence[Tensor], context: Context, last: Sequence[int] | None = None) -> list[Scores]:
    """The Scores of each of `documents` [N] int64, or of the `last` predicted tokens of each.

    A document of one token or none has no predicted tokens. Raises ValueError for token ids that the model doesn't have
    and for a text that its positions don't reach.
    """
    kept = [max(0, len(ids) - 1) for ids in documents]
    if last is not None:
        kept = [min(n, m) for n, m in zip(kept, last)]
    check_ids(documents, model.config.vocab_size)
    context.check(model.config, max(map(len, documents), default=0))
    nats = [torch.empty(n, dtype=torch.float64) for n in kept]
    hits = [torch.empty(n, dtype=torch.bool) for n in kept]
    run = _slide if context.kind == "sliding" else _stream
    with progress(sum(kept)) as bar:
        for row, end, lost, hit in run(model, documents, kept, context):
            begin = end - len(lost)
            nats[row][begin:end], hits[row][begin:end] = lost, hit
            bar.update(len(lost))
    return [Scores(n, h) for n, h in zip(nats, hits)]


def progress(total: int) -> Any:
    """A bar on a terminal's standard error, for what takes longer than two seconds."""
    return tqdm(total=total, desc="scoring", unit=" tokens", unit_scale=True, delay=2, leave=False, disable=None)


def check_ids(documents: Sequence[Tensor], vocab_size: int) -> None:
    """ValueError if a token is not the model's."""
    top = max((int(ids.max()) for ids in documents if len(ids)), default=0)
    if top >= vocab_size:
        raise ValueError(
            f"the tokenizer made token {top}, the model knows 0..{vocab_size - 1}; use the one it was trained with"
        )


class Window(NamedTuple):
    """Tokens begin..end of document `row` go in; the last `keep` predictions count."""

    row: int
    begin: int
    end: int
    keep: int


def windows(row: int, inputs: int, keep: int, length: int, stride: int) -> Iterator[Window]:
    """The windows over a document of `inputs` tokens with a successor, the last `keep` of which are to be scored."""
    done, end = inputs - keep, min(length, inputs)
    while done < inputs:
        if end > done:
            yield Window(row, max(0, end - length), end, end - done)
            done = end
        end = min(end + stride, inputs)


Found = Iterator[tuple[int, int, Tensor, Tensor]]  # row, end of the piece in its scores, nats, hits


def _slide(model: Any, documents: Sequence[Tensor], kept: list[int], context: Context) -> Found:
    """Windows of the same shape together."""
    device, V = next(model.parameters()).device, model.config.vocab_size
    todo = [
        window
        for row, (ids, keep) in enumerate(zip(documents, kept))
        for window in windows(row, len(ids) - 1, keep, context.length, context.stride)
    ]
    todo.sort(key=lambda window: (window.end - window.begin, window.keep))
    for (length, keep), group in groupby(todo, key=lambda window: (window.end - window.begin, window.keep)):
        same = list(group)
        rows = max(1, min(context.batch_size, LOGITS // (keep * V), TOKENS // length))
        for batch in (same[i : i + rows] for i in range(0, len(same), rows)):
            ids = torch.stack([documents[w.row][w.begin : w.end + 1] for w in batch]).to(device)
            logits = model(ids[:, :-1], logits_to_keep=keep, use_cache=False).logits
            nats, hits = surprise(logits, ids[:, -keep:])
            for w, lost, hit in zip(batch, nats, hits):
                yield w.row, w.end - (len(documents[w.row]) - 1 - kept[w.row]), lost, hit


def _stream(model: Any, documents: Sequence[Tensor], kept: list[int], context: Context) -> Found:
    """Documents of the same length together, chunk by chunk."""
    device, V = next(model.parameters()).device, model.config.vocab_size
    order = sorted((row for row, keep in enumerate(kept) if keep), key=lambda row: len(documents[row]))
    for N, group in groupby(order, key=lambda row: len(documents[row])):
        same, chunk = list(group), min(context.chunk, N - 1)
        rows = max(1, min(context.batch_size, LOGITS // (chunk * V), TOKENS // chunk))
        for batch in (same[i : i + rows] for i in range(0, len(same), rows)):
            ids, cache = torch.stack([documents[row] for row in batch]), DynamicCache(config=model.config)
            for begin in range(0, N - 1, chunk):
                piece = ids[:, begin : begin + chunk + 1].to(device)
                logits = model(piece[:, :-1], past_key_values=cache).logits
                nats, hits = surprise(logits, piece[:, 1:])
                end = begin + piece.shape[1] - 1
                for row, lost, hit in zip(batch, nats, hits):
                    first = N - 1 - kept[row]
                    new = max(0, end - max(begin, first))
                    if new:
                        yield row, end - first, lost[-new:], hit[-new:]


def surprise(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(target) [B, N] float64 and whether the target was the likeliest [B, N], on the CPU.  logits: [B, N, V]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view_as(targets).double().cpu(), (logits.argmax(-1) == targets).cpu()
