"""One more token after ever longer contexts: its time, and what must be kept for it."""

# N tokens of context

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tost.bench.measure import paired
from tost.bench.prefill import read
from tost.models.language import state_nbytes

CHUNK = 2048  # tokens of a prefill fed at once


@torch.inference_mode()
def growth_records(models: Mapping[str, Any], contexts: Sequence[int], rounds: int = 9) -> list[dict[str, Any]]:
    """Milliseconds of one more token and bytes of the state, for every model of ours and context.

    The contexts of one model take turns; another model's large cache would push its weights out of the processor's.
    A context is random tokens: neither number depends on what they are.
    """
    records = []
    for name, model in models.items():
        calls, sizes = {}, {}
        for context in contexts:
            ids = torch.randint(model.config.vocab_size, (1, context), generator=torch.Generator().manual_seed(0))
            calls[context], sizes[context] = decode_step(model, ids)
        samples = paired(calls, rounds, slow_rounds=rounds)
        records += [
            {"contestant": name, "context": context, "ms": 1e3 * median(taken), "state_bytes": sizes[context]}
            for context, taken in samples.items()
        ]
    return records


def decode_step(model: Any, ids: Tensor) -> tuple[Callable[[], object], int]:
    """A step of greedy decoding after the context ids [1, N], and the bytes kept for it."""
    softmax = "softmax" in model.config.mixers  # in chunks it would need masks [chunk, N]
    cache = read(model, ids, ids.shape[1] if softmax else CHUNK)
    token, kept = torch.zeros(1, 1, dtype=torch.int64, device=ids.device), state_nbytes(cache)
    return lambda: token.copy_(model(token, past_key_values=cache).logits[:, -1:].argmax(-1)), kept
