"""What `tost bench language` measures: a long plan and a short one."""

from __future__ import annotations

from dataclasses import dataclass

from tost.bench.language_models import Size, size_of


@dataclass(frozen=True)
class Plan:
    """Sizes of the model and of the texts, and how long to measure.

    contexts: of decoding; the published model is timed at the first.  prefill: (tokens, tokens a chunk) of the memory
    measurements, whose model is the nano preset; a chunk of 0 is the whole text at once.
    """

    name: str
    size: Size
    contexts: tuple[int, ...]
    forward_tokens: int
    training_tokens: int
    prefill: tuple[tuple[int, int], ...]
    rounds: int
    seconds: float  # after which a comparison starts no further round


def make_plan(quick: bool, model: str | None = None, rounds: int | None = None) -> Plan:
    """The plan of the command's options."""
    if quick:
        name = model or "nano"
        size = size_of(name, vocab=4096) if model is None else size_of(name)
        texts: tuple[tuple[int, int], ...] = ((4096, 0), (4096, 1024), (16384, 1024))
        return Plan(name, size, (128, 512, 2048), 512, 256, texts, rounds or 3, 4.0)
    name = model or "base"
    texts = ((65536, 0), (262144, 0), (65536, 4096), (262144, 4096), (1048576, 4096))
    return Plan(name, size_of(name), (512, 2048, 8192, 32768), 4096, 1024, texts, rounds or 7, 240.0)
