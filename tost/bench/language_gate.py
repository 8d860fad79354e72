"""The gate of language models: what is about to be timed computes what it should."""

# N tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GPT2LMHeadModel, StaticCache

from tost.bench.gate import Check, relative_error
from tost.bench.language_models import Size, gpt2_model, published_model, random_text, tost_model
from tost.models.language import ToSTForCausalLM, to_official

LOGITS = 1e-5  # of the norm, ours in float32 against the published model in float64
GRADIENTS = 1e-3  # of the norm of each; w^2 / a of the first tokens magnifies rounding where a feature is still small
DECODE = 1e-4  # of the largest logit, token by token against the whole text at once
SURPRISE = 0.5  # nats: how far an untrained model's loss may be from ln V
TOKENS, STEPS = 65, 9  # of the texts that are compared; the last are fed one by one


def check_models(size: Size, device: str = "cpu") -> list[Check]:
    """Ours against the published model in logits and gradients, decoding against recomputing, GPT-2 for sanity.

    Residual branches count in full here (LayerScale 1, not 1e-5), or a wrong operator would hardly be seen.
    """
    ours = scrambled(tost_model(size, TOKENS, scale=1.0)).to(device)
    theirs = published_model(size, TOKENS, like=ours).to(device).double()
    checks = list(check_published(ours, theirs, random_text(size, TOKENS, device)))
    endless = scrambled(tost_model(size, None, scale=1.0)).to(device)
    checks.append(check_decode("tost", endless, DynamicCache(config=endless.config)))
    return checks + check_gpt2(size, device)


@torch.no_grad()
def scrambled(model: ToSTForCausalLM) -> Any:
    """Temperatures and position biases away from one and zero, so that they count."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("temperature", "position_bias")):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def check_published(ours: ToSTForCausalLM, theirs: nn.Module, ids: Tensor) -> Iterator[Check]:
    """Logits, and the gradients of the loss by every parameter."""
    logits = ours(ids, use_cache=False).logits, theirs(ids)
    yield Check("tost against published, logits", norm_error(*logits), LOGITS)
    for each, model in zip(logits, (ours, theirs)):
        model.zero_grad()
        next_token_loss(each, ids).backward()
    found = to_official({name: p.grad.double() for name, p in ours.named_parameters() if p.grad is not None})
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    name, error = worst_gradient(found, wanted)
    yield Check(f"tost against published, gradients (worst: {name})", error, GRADIENTS)


def worst_gradient(found: dict[str, Tensor], wanted: dict[str, Any]) -> tuple[str, float]:
    """The parameter whose gradient is furthest off, over its norm; infinitely where one model learns it alone."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        return f"{missing[0]} does not learn", float("inf")
    floor = 1e-2 * max(float(g.norm()) for g in wanted.values())
    errors = {name: float((found[name] - g).norm()) / max(float(g.norm()), floor) for name, g in wanted.items()}
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))  # NaN first
    return worst, errors[worst]


@torch.no_grad()
def check_decode(name: str, model: ToSTForCausalLM | GPT2LMHeadModel, cache: Cache) -> Check:
    """The last tokens one by one after a prefill, beside one pass over the text."""
    size = Size(0, 0, 0, model.config.vocab_size)
    ids = random_text(size, TOKENS, str(model.device))
    expected = model(ids, use_cache=False).logits[:, -STEPS:]
    model(ids[:, :-STEPS], past_key_values=cache, logits_to_keep=1)
    got = [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(TOKENS - STEPS, TOKENS)]
    return Check(f"{name}, decoding against recomputing", relative_error(torch.cat(got, 1), expected.double()), DECODE)


def check_gpt2(size: Size, device: str) -> list[Check]:
    """That the rival works: both caches give what recomputing gives, and untrained it knows nothing."""
    model, ids = gpt2_model(size, TOKENS).to(device), random_text(size, TOKENS, device)
    caches: dict[str, Callable[[], Cache]] = {
        "growing cache": lambda: DynamicCache(config=model.config),
        "static cache": lambda: StaticCache(config=model.config, max_cache_len=TOKENS),
    }
    checks = [check_decode(f"GPT-2, {name}", model, make()) for name, make in caches.items()]
    with torch.no_grad():
        surprise = float(next_token_loss(model(ids).logits, ids)) - torch.tensor(float(size.vocab)).log().item()
    return [*checks, Check("GPT-2, loss before training less ln V", abs(surprise), SURPRISE)]


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean nats of the next tokens.  logits: [1, N, V].  ids: [1, N]."""
    return F.cross_entropy(logits[0, :-1], ids[0, 1:])


def norm_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float(((got - expected).norm() / expected.norm()).detach())
