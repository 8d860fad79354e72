"""Text token by token: what is written, how long a token took, what is kept, how the heads share each token."""

# N tokens, H heads

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tost.app.limits import check_prompt
from tost.generation.load import load_language
from tost.generation.text import decode, end_tokens, prompt_ids, table_of
from tost.models.language import ToSTConfig, state_nbytes
from tost.rates import record_memberships

MAX_NEW_TOKENS = 1000
SMOOTH = 9  # tokens over which the time per token is a median
PENDING = 4  # tokens, at most, that one character is spread over
TOP_P = 0.95


@dataclass
class Text:
    """A text that grows.

    given: how many of its tokens are the prompt.  times [s], kept [bytes]: an entry for each token after it.
    pieces: of text, one a token, empty where the next token completes a character.
    shares: layer -> Pi [n, H] of the tokens that were watched so far.  layer: the place of the one that is painted.
    """

    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    given: int = 0
    times: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    shares: dict[str, Tensor] = field(default_factory=dict)
    layer: int = 0

    def milliseconds(self) -> list[float]:
        """Times of the new tokens, each a median of its neighbours."""
        last = max(0, len(self.times) - SMOOTH)
        starts = [min(max(0, i - SMOOTH // 2), last) for i in range(len(self.times))]
        return [1e3 * median(self.times[start : start + SMOOTH]) for start in starts]

    def spell(self, tokenizer: Any, tokens: list[int]) -> None:
        """Add tokens; one that ends within a character waits for the next ones to show it."""
        for token in tokens:
            self.ids.append(token)
            self.pieces.append("")
            waiting = 1
            while waiting < min(PENDING, len(self.pieces)) and not self.pieces[-1 - waiting]:
                waiting += 1
            piece = decode(tokenizer, torch.tensor(self.ids[-waiting:]))
            if not piece.endswith("\ufffd") or waiting == PENDING:
                self.pieces[-1] = piece


class Watch:
    """Records the memberships of a text with a state of its own, some tokens at a time, so that no step is slowed."""

    def __init__(self, model: Any, text: Text) -> None:
        self.model, self.text, self.seen = model, text, 0
        self.cache = empty_cache(model)

    def catch_up(self) -> None:
        """Watch the tokens that came since the last call; nothing where the model's mixer has no memberships."""
        new = self.text.ids[self.seen :]
        if not new or self.cache is None:
            return
        device = next(self.model.parameters()).device
        batch = {"input_ids": torch.tensor([new], device=device), "past_key_values": self.cache, "use_cache": True}
        try:
            found = record_memberships(self.model, batch)
        except ValueError:
            self.cache = None
            return
        before = self.text.shares
        self.text.shares = {k: torch.cat([before[k], pi[0]] if k in before else [pi[0]]) for k, pi in found.items()}
        self.seen = len(self.text.ids)


def open_language(run: str) -> tuple[Any, Any]:
    """Model and tokenizer of a run, warm; learned positions go on past their table, so that a text may go on."""
    model, tokenizer = load_language(run)
    if not isinstance(model.config, ToSTConfig):
        raise ValueError(f"{run} is a {model.config.model_type}; the page shows a ToST")
    if table_of(model.config) is not None:
        model, tokenizer = load_language(run, position_mode="clamped")
    cache, ids = empty_cache(model), torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    for tokens in (ids, ids[:, :1]):
        step(model, tokens, cache)
    return model, tokenizer


def begin(model: Any, tokenizer: Any, prompt: str) -> Text:
    """A text that holds the prompt; ValueError if that is empty or too long."""
    text = Text()
    text.spell(tokenizer, prompt_ids(model, tokenizer, check_prompt(prompt), None)[0].tolist())
    text.given = len(text.ids)
    return text


def write(model: Any, tokenizer: Any, text: Text, count: int, temperature: float, seed: int = 0) -> Iterator[Text]:
    """Let `text` grow by up to `count` tokens, given back after each, or to where the model ends it.

    A time is that of the model's step alone.
    """
    cache, generator = empty_cache(model), torch.Generator().manual_seed(seed)
    ends = end_tokens(model, tokenizer)
    logits = step(model, torch.tensor([text.ids], device=model.device), cache)
    for _ in range(min(count, MAX_NEW_TOKENS)):
        token = choose(logits, temperature, generator)
        if token in ends:
            return
        began = time.perf_counter()
        logits = step(model, torch.tensor([[token]], device=model.device), cache)
        text.times.append(time.perf_counter() - began)
        text.kept.append(state_nbytes(cache))
        text.spell(tokenizer, [token])
        yield text


@torch.inference_mode()
def step(model: Any, ids: Tensor, cache: Any) -> Tensor:
    """Logits [V] after the tokens ids [1, N], on the CPU."""
    return model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float().cpu()


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """The likeliest token, or with a temperature one of the likeliest that hold TOP_P of the probability."""
    if temperature <= 0:
        return int(logits.argmax())
    shares, order = (logits / temperature).softmax(-1).sort(descending=True)
    shares[shares.cumsum(-1) - shares >= TOP_P] = 0  # the first stays in any case
    return int(order[torch.multinomial(shares, 1, generator=generator)])


def empty_cache(model: Any) -> Any:
    """A state before the first token."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def key_value_bytes(config: Any, tokens: int, itemsize: int = 4) -> int:
    """Keys and values that a GPT-2 of this width and depth would keep after so many tokens: computed, not measured."""
    return 2 * config.num_hidden_layers * config.hidden_size * tokens * itemsize
