"""Training steps of a comparison: forward, backward and one AdamW for all; half precision by autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.bench import vision_models as vision
from tost.bench.gate import Check
from tost.bench.language_gate import check_published, next_token_loss, worst_gradient
from tost.bench.language_models import Size, gpt2_model, published_model, random_text, tost_model
from tost.bench.measure import Call
from tost.bench.settings import DTYPES
from tost.models.official import to_official

GRADIENTS = 1e-3  # of the norm of each parameter's gradient, in float32


def language_step(name: str, size: Size, tokens: int, dtype: str, device: str) -> Call:
    """A step of "tost", "published" or "gpt2" on one text."""
    ids = random_text(size, tokens, device)
    if name == "gpt2":
        rival: Any = gpt2_model(size, tokens).to(device)
        return step(rival, lambda: rival(ids, labels=ids, use_cache=False).loss, dtype, device)
    if name == "published":
        theirs = published_model(size, tokens).to(device)
        return step(theirs, lambda: next_token_loss(theirs(ids), ids), dtype, device)
    ours: Any = tost_model(size, tokens).to(device)
    return step(ours, lambda: ours(ids, labels=ids, use_cache=False).loss, dtype, device)


def vision_step(name: str, model: str, count: int, pixels: int, dtype: str, device: str) -> Call:
    """A step of "tost", "published" or the "softmax" twin on a batch of images."""
    x, labels = vision.images(count, pixels, "float32", device), torch.arange(count, device=device)
    made = vision.pair(model, pixels)[1] if name == "published" else vision.twin(model, vision.MIXERS[name], pixels)
    made = made.to(device)
    return step(made, lambda: F.cross_entropy(made(x), labels), dtype, device)


def step(model: nn.Module, loss: Callable[[], Tensor], dtype: str, device: str) -> Call:
    """A step with torch's fused AdamW; float16 without a scaler, which changes no time worth naming."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    half = dtype != "float32"

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, DTYPES[dtype]) if half else nullcontext():
            value = loss()
        value.backward()
        optimiser.step()

    return run


def calls(kind: str, name: str, arguments: Sequence[Any], dtype: str, device: str) -> Iterator[Call]:
    """The call whose peak is measured: a second step, when the optimiser's state is there."""
    if kind == "language":
        run = language_step(name, Size(*arguments[0]), arguments[1], dtype, device)
    else:
        run = vision_step(name, arguments[0], arguments[1], arguments[2], dtype, device)
    run()
    yield run


def check_language(size: Size, tokens: int, device: str) -> Iterator[Check]:
    """Logits and gradients on the text that is timed, in float32 against the published model in float64."""
    ours = tost_model(size, tokens).to(device)
    theirs = published_model(size, tokens, like=ours).to(device).double()
    yield from check_published(ours, theirs, random_text(size, tokens, device))


def check_vision(model: str, count: int, pixels: int, device: str) -> Check:
    """Gradients on the images that are timed, batch statistics and all: float32 against the published in float64."""
    x, labels = vision.images(count, pixels, "float32", device), torch.arange(count, device=device)
    ours, theirs = (m.to(device).train() for m in vision.pair(model, pixels))
    F.cross_entropy(ours(x), labels).backward()
    F.cross_entropy(theirs.double()(x.double()), labels).backward()
    state = dict(ours.state_dict())
    state.update({name: p.grad.double() for name, p in ours.named_parameters() if p.grad is not None})
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    name, error = worst_gradient(to_official(state), wanted)
    return Check(f"vision model, {pixels} px: gradients (worst: {name})", error, GRADIENTS)
