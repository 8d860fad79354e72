"""The times of `tost bench language`: a token, a forward pass, a training step."""

# N tokens of context or of a pass

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tost.bench.growth import decode_step
from tost.bench.language_gate import next_token_loss
from tost.bench.language_models import (
    cache_nbytes,
    gpt2_cache,
    gpt2_model,
    published_model,
    random_text,
    tost_model,
)
from tost.bench.language_plan import Plan
from tost.bench.measure import paired, ratio
from tost.bench.products import time_by_kind, usual_products

Call = Callable[[], object]
Record = dict[str, Any]
MARGIN = 1024  # positions of GPT-2 beyond the context: the steps that are timed take some
WHOLE, BODY = "with logits of all tokens", "without the head"


@torch.inference_mode()
def decode_records(plan: Plan) -> list[Record]:
    """One more token after each context: first ours at all contexts and the published model, taking turns; then ours
    and GPT-2 with its two caches at one context after another."""
    ours = tost_model(plan.size, None)
    steps, states = {}, {}
    for context in plan.contexts:
        steps[context], states[context] = decode_step(ours, random_text(plan.size, context))
    first = plan.contexts[0]
    theirs = published_model(plan.size, first)
    calls: dict[Any, Call] = dict(steps)
    calls["published"] = _recompute(theirs, random_text(plan.size, first))
    samples = paired(calls, plan.rounds, plan.seconds, plan.rounds)
    records = [
        {
            "contestant": "tost",
            "context": context,
            "ms": 1e3 * median(samples[context]),
            "over_tost": 1.0,
            "over_first": ratio(samples[context], samples[first]),
            "state_bytes": states[context],
        }
        for context in plan.contexts
    ]
    records.append(
        {
            "contestant": "published",
            "context": first,
            "ms": 1e3 * median(samples["published"]),
            "over_tost": ratio(samples["published"], samples[first]),
            "state_bytes": 0,
        }
    )
    del theirs, calls
    rival = gpt2_model(plan.size, max(plan.contexts) + MARGIN)
    for context in plan.contexts:
        records += _decode_beside_gpt2(plan, context, steps[context], rival)
    return records


def _decode_beside_gpt2(plan: Plan, context: int, ours: Call, rival: Any) -> list[Record]:
    calls, caches = {"tost": ours}, {}
    for name, static in (("gpt2_dynamic", False), ("gpt2_static", True)):
        caches[name] = gpt2_cache(rival, context, static)
        calls[name] = _gpt2_step(rival, caches[name], context, static)
    sizes = {name: cache_nbytes(cache) for name, cache in caches.items()}
    samples = paired(calls, plan.rounds, plan.seconds, plan.rounds)
    return [
        {
            "contestant": name,
            "context": context,
            "ms": 1e3 * median(samples[name]),
            "over_tost": ratio(samples[name], samples["tost"]),
            "state_bytes": sizes[name],
        }
        for name in caches
    ]


def _gpt2_step(model: Any, cache: Any, context: int, static: bool) -> Call:
    token = torch.zeros(1, 1, dtype=torch.int64)

    def step() -> None:
        if static:  # the same place again
            for layer in cache.layers:
                layer.cumulative_length.fill_(context)
        token.copy_(model(token, past_key_values=cache).logits[:, -1:].argmax(-1))

    return step


def _recompute(model: Any, ids: Tensor) -> Call:
    return lambda: model.next_logits(ids).argmax(-1)


@torch.inference_mode()
def forward_records(plan: Plan) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """A pass over N tokens, with the head and without, and for what each model spends its time."""
    N, size = plan.forward_tokens, plan.size
    ids = random_text(size, N)
    ours, theirs, rival = tost_model(size, N), published_model(size, N), gpt2_model(size, N)
    passes: dict[str, dict[str, Call]] = {
        WHOLE: {
            "published": lambda: theirs(ids),
            "gpt2": lambda: rival(ids, use_cache=False).logits,
            "tost": lambda: ours(ids, use_cache=False).logits,
        },
        BODY: {
            "published": lambda: theirs.transformer(ids),
            "gpt2": lambda: rival.transformer(ids, use_cache=False).last_hidden_state,
            "tost": lambda: ours.model(ids, use_cache=False).last_hidden_state,
        },
    }
    records = []
    for part, calls in passes.items():
        calls["tost_usual"] = usual_products(calls["tost"])
        samples = paired(calls, plan.rounds, plan.seconds, plan.rounds)
        records += [{"part": part, "tokens": N, **record} for record in _records(samples)]
    return records, {name: time_by_kind(call) for name, call in passes[BODY].items()}


def training_records(plan: Plan) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """Forward, backward and AdamW on one text of N tokens, and for what each model spends its time."""
    N, size = plan.training_tokens, plan.size
    ids = random_text(size, N)
    ours, theirs, rival = tost_model(size, N), published_model(size, N), gpt2_model(size, N)
    calls: dict[str, Call] = {
        "published": _training_step(theirs, lambda: next_token_loss(theirs(ids), ids)),
        "gpt2": _training_step(rival, lambda: rival(ids, labels=ids, use_cache=False).loss),
        "tost": _training_step(ours, lambda: ours(ids, labels=ids, use_cache=False).loss),
    }
    calls["tost_usual"] = usual_products(calls["tost"])
    samples = paired(calls, plan.rounds, plan.seconds, plan.rounds)
    shares = {name: time_by_kind(call) for name, call in calls.items()}
    return [{"tokens": N, **record} for record in _records(samples)], shares


def _training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Call:
    """A step with torch's fused AdamW, the same for all."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def _records(samples: dict[str, list[float]]) -> list[Record]:
    """Times, and how many times longer than ours each takes."""
    return [
        {"contestant": name, "ms": 1e3 * median(taken), "over_tost": ratio(taken, samples["tost"])}
        for name, taken in samples.items()
    ]
