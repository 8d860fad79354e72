"""Reading a long text, whole or in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tost.bench.language_models import random_text, size_of, tost_model
from tost.bench.measure import Call
from tost.bench.settings import DTYPES

MODEL = "nano"
VOCAB = 4096


def read(model: Any, ids: torch.Tensor, chunk: int) -> Any:
    """The cache after a text [1, N], fed `chunk` tokens at a time."""
    cache = None
    for part in ids.split(chunk, dim=1):
        cache = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
    return cache


def calls(lengths: Sequence[int], chunk: int, dtype: str, device: str) -> Iterator[Call]:
    """The calls whose peaks are measured: texts of random tokens in chunks (0: whole); the kernels are warm before."""
    size = size_of(MODEL, vocab=VOCAB)
    model = tost_model(size, None).to(device, DTYPES[dtype])

    def reading(length: int, chunk: int) -> Call:
        ids = random_text(size, length, device)
        return torch.inference_mode()(lambda: read(model, ids, chunk))

    reading(128, 64)()
    for length in lengths:
        yield reading(length, chunk or length)
