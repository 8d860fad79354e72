"""A causal language model as two graphs, many tokens and one, with everything it remembers as inputs and outputs."""

# B batch, N tokens, V = vocab_size

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tost.deploy.export_graphs import Axis, Case, Graph, Limits
from tost.models.language import ToSTForCausalLM
from tost.models.language.cache import state_layers
from tost.nn.states import map_state, state_tensors


class Step(nn.Module):
    """(tokens [B, N], every tensor of the state) -> (logits [B, V] after the last token, every tensor of the next).

    The state before the first token is zeros of the same shapes.
    """

    def __init__(self, model: ToSTForCausalLM) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            out = model(torch.zeros(1, 1, dtype=torch.int64), use_cache=True)
        self.like = [layer.state for layer in state_layers(out.past_key_values)]
        parts = [state_tensors(state, f"layer{i}.") for i, state in enumerate(self.like)]
        self.names = [name for layer in parts for name in layer]

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        given = iter(state)
        cache = DynamicCache(config=self.model.config)
        for layer, like in zip(state_layers(cache), self.like):
            layer.state = map_state(like, lambda _: next(given))
        out = self.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ends = [state_tensors(layer.state).values() for layer in state_layers(out.past_key_values)]
        return out.logits[:, 0], *(part for end in ends for part in end)

    def zeros(self, batch: int) -> tuple[Tensor, ...]:
        """The state before the first token."""
        parts = [part for state in self.like for part in state_tensors(state).values()]
        return tuple(torch.zeros(batch, *part.shape[1:], dtype=part.dtype) for part in parts)


class Inputs(nn.Module):
    """A Step called with its inputs alone."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.step(*inputs)


def language_graphs(model: ToSTForCausalLM, limits: Limits, real: Sequence[Tensor] = ()) -> list[Graph]:
    """`prefill` of 1 to limits.tokens tokens and `decode` of one, for a model whose state doesn't grow.

    real: texts as ids [N], of more tokens than one.  Raises ValueError for layers whose state grows with the tokens.
    """
    growing = [i for i, name in enumerate(model.config.mixers) if name == "softmax"]
    if growing:
        raise ValueError(
            f"export takes layers whose state has one size, got softmax in layer {growing[0]}; its cache grows"
        )
    if model.config.tables and model.config.position_mode == "learned":
        limits = Limits(limits.batch, limits.side, min(limits.tokens, model.config.max_position_embeddings))
    step = Step(copy.deepcopy(model).eval().requires_grad_(False))
    batch = {0: Axis("batch", limits.batch)}
    states = dict.fromkeys(step.names, batch)
    outputs = ["logits", *(f"next.{name}" for name in step.names)]
    facts = {"state": step.names}
    prefill = Graph(
        "prefill",
        Inputs(step),
        step,
        {"tokens": {**batch, 1: Axis("tokens", limits.tokens)}, **states},
        outputs,
        _prefill_cases(step, limits, real),
        facts,
    )
    decode = Graph(
        "decode", Inputs(step), step, {"tokens": batch, **states}, outputs, _decode_cases(step, limits, real), facts
    )
    return [prefill, decode]


def _prefill_cases(step: Step, limits: Limits, real: Sequence[Tensor]) -> list[Case]:
    """Random tokens from nothing and after others; texts from nothing and after their first half."""
    V, most = step.model.config.vocab_size, limits.tokens
    B = min(2, limits.batch)
    first, long, more = (_random(V, size) for size in ((B, min(7, most)), (1, most), (1, min(33, most))))
    cases = [Case((first, *step.zeros(B))), Case((long, *step.zeros(1)))]
    room = step.model.config.max_position_embeddings if step.model.config.tables else None
    if room is None or first.shape[1] + more.shape[1] <= room:
        cases.append(Case((more, *_after(step, first[:1]))))
    for text in real:
        half = max(1, min(len(text), most, room or most) // 2)
        cases.append(Case((text[None, : 2 * half], *step.zeros(1)), real=True))
        cases.append(Case((text[None, half : 2 * half], *_after(step, text[None, :half])), real=True))
    return cases


def _decode_cases(step: Step, limits: Limits, real: Sequence[Tensor]) -> list[Case]:
    V, B = step.model.config.vocab_size, min(2, limits.batch)
    cases = [Case((_random(V, (B, 1)), *_after(step, _random(V, (B, 5))))), Case((_random(V, (1, 1)), *step.zeros(1)))]
    for text in real:
        start = text[None, : min(len(text), step.model.config.max_position_embeddings) - 1]
        cases.append(Case((text[None, start.shape[1], None], *_after(step, start)), real=True))
    return cases


def _after(step: Step, tokens: Tensor) -> tuple[Tensor, ...]:
    """The state after `tokens`."""
    with torch.no_grad():
        return step(tokens, *step.zeros(tokens.shape[0]))[1:]


def _random(V: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(V, size, generator=torch.Generator().manual_seed(0))
