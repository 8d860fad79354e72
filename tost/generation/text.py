"""Write on from a prompt: transformers' generate, with a state that can be kept."""

# P tokens of the prompt, n new tokens, L = max_position_embeddings

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteriaList, TextStreamer

from tost.generation.interrupt import interruptible
from tost.generation.load import quietly
from tost.models.language import ToSTConfig, resume, select_state

NEW_TOKENS = 200  # unless the position table ends before
PREFILL = 1024  # tokens of a long prompt fed at once


@dataclass
class Sampling:
    """How the next token is chosen.

    max_new_tokens: None = 200, or as many as the position table has room for.
    temperature: None = 0.8, or 0 (the likeliest token) with beams.  top_p, top_k: 1 and 0 turn them off.
    stop: end once this has been written.  seed: None = other text each time.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float = 0.95
    top_k: int = 0
    num_beams: int = 1
    stop: str = ""
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens of at least 1": self.max_new_tokens is None or self.max_new_tokens >= 1,
            "temperature of at least 0": self.temperature is None or self.temperature >= 0,
            "top_p above 0 and at most 1": 0 < self.top_p <= 1,
            "top_k of at least 0 (0 = off)": self.top_k >= 0,
            "num_beams of at least 1": self.num_beams >= 1,
        }
        for told, right in checks.items():
            if not right:
                raise ValueError(f"expected {told}, got {getattr(self, told.split()[0])}")

    def options(self) -> dict[str, Any]:
        """Arguments of model.generate."""
        heat = self.temperature if self.temperature is not None else 0.8 * (self.num_beams == 1)
        chosen: dict[str, Any] = {"do_sample": heat > 0, "num_beams": self.num_beams}
        if heat > 0:
            chosen.update(temperature=heat, top_p=self.top_p, top_k=self.top_k)
        return chosen


@dataclass
class Generation:
    """What was written.

    text: without the prompt.  finish: length, end (the end-of-text token), stop or interrupted.
    cache: the state after all tokens but those in `tail` [k], which the model was not fed yet; None for models other
    than ToST.  seconds: of generation, the prompt included.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    finish: str
    seconds: float
    cache: Any
    tail: Tensor

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / max(self.seconds, 1e-9)


def generate_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    sampling: Sampling | None = None,
    *,
    past: tuple[Any, Tensor] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Write on from `prompt`, or from `past` (the cache and tail of a Generation) and then `prompt`.

    on_text: called with each piece of text as it is ready.  The first Ctrl-C ends the text after the current token, a
    second one raises KeyboardInterrupt.
    Raises ValueError for a prompt without tokens (where there is no past), tokens that the model doesn't have, more
    tokens than the position table, and on_text with beams.
    """
    sampling = sampling or Sampling()
    if on_text is not None and sampling.num_beams > 1:
        raise ValueError("beams are compared until the end, so there is nothing to stream; leave out one of the two")
    ids = prompt_ids(model, tokenizer, prompt, past)
    budget = new_tokens(model, ids.shape[1], 0 if past is None else past[0].get_seq_length(), sampling.max_new_tokens)
    cache = _empty_cache(model) if past is None else past[0]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} if past is None else resume(cache, ids)
    given["past_key_values"] = cache if sampling.num_beams == 1 else _for_beams(model, past, sampling.num_beams)
    began = time.perf_counter()
    with quietly(), interruptible() as interrupt, _seeded(sampling.seed), torch.inference_mode():
        out = model.generate(
            **given,
            max_new_tokens=budget,
            stopping_criteria=StoppingCriteriaList([interrupt]),
            streamer=Pieces(tokenizer, on_text) if on_text is not None else None,
            **_ends(model, tokenizer, sampling.stop),
            **sampling.options(),
            **({"prefill_chunk_size": PREFILL} if ids.shape[1] > PREFILL else {}),
        )
        if sampling.num_beams > 1 and cache is not None:
            model(out[:, :-1], past_key_values=cache, logits_to_keep=1)
    written = out[0, ids.shape[1] :]
    seconds, text = time.perf_counter() - began, decode(tokenizer, written)
    finish = "interrupted" if interrupt.asked and len(written) < budget else "length"
    if len(written) and int(written[-1]) in end_tokens(model, tokenizer):
        finish = "end"
    elif sampling.stop and sampling.stop in text:
        finish = "stop"
    return Generation(text, ids.shape[1], len(written), finish, seconds, cache, out[0, -1:].clone())


def prompt_ids(model: Any, tokenizer: Any, prompt: str, past: tuple[Any, Tensor] | None) -> Tensor:
    """Tokens [1, P] to feed: those of `prompt`, after the tail of the past."""
    tokens = tokenizer(prompt, add_special_tokens=past is None)["input_ids"]
    ids = torch.tensor([tokens], dtype=torch.int64, device=next(model.parameters()).device)
    if past is not None:
        ids = torch.cat([past[1][None].to(ids.device), ids], dim=1)
    if not ids.numel():
        raise ValueError("the prompt is empty; give at least one token to begin with, such as --prompt 'def '")
    if int(ids.max()) >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer made token {int(ids.max())}, the model knows 0..{model.config.vocab_size - 1}; use the "
            "tokenizer the model was trained with"
        )
    return ids


def new_tokens(model: Any, prompt: int, past: int, asked: int | None) -> int:
    """How many tokens may be written after `past` + `prompt` ones; ValueError if the position table has no room."""
    limit = table_of(model.config)
    if limit is None:
        return asked or NEW_TOKENS
    room = limit - past - prompt + 1  # the last token is never fed
    out = (
        "position_mode 'clamped' (--position_mode clamped) reuses the last position"
        if isinstance(model.config, ToSTConfig)
        else "shorten it"
    )
    if room < 1:
        raise ValueError(f"the prompt has {past + prompt} tokens, the model positions for {limit}; {out}")
    if asked is not None and asked > room:
        raise ValueError(
            f"{past + prompt} tokens of prompt leave room for {room} new ones in a table of {limit} positions, got "
            f"max_new_tokens {asked}; ask for fewer, or {out}"
        )
    return asked or min(NEW_TOKENS, room)


def table_of(config: Any) -> int | None:
    """The number of tokens at which the positions of a model end, None if they don't."""
    if isinstance(config, ToSTConfig):
        return config.max_position_embeddings if config.position_mode == "learned" else None
    return getattr(config, "max_position_embeddings", None)


def decode(tokenizer: Any, ids: Tensor) -> str:
    """The text of tokens [n], as it was written: no spaces are cleaned up."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Pieces(TextStreamer):
    """Hands each finished piece of the new text to a function."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text: the model's, or else the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [ends]


def _ends(model: Any, tokenizer: Any, stop: str) -> dict[str, Any]:
    """Arguments of generate that say where a text ends."""
    ends = end_tokens(model, tokenizer)
    given: dict[str, Any] = {"eos_token_id": ends, "pad_token_id": ends[0]} if ends else {}
    return {**given, "stop_strings": [stop], "tokenizer": tokenizer} if stop else given


def _for_beams(model: Any, past: tuple[Any, Tensor] | None, beams: int) -> Any:
    """A cache of its own for a beam search: it ends with the beams that were alive, which need not be the best."""
    return _empty_cache(model) if past is None else select_state(past[0], [0] * beams)


def _empty_cache(model: Any) -> Any:
    return DynamicCache(config=model.config) if isinstance(model.config, ToSTConfig) else None


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
