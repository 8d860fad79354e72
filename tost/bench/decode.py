"""What one more token costs: a causal step with its state, the call's overhead included."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from tost.bench import published
from tost.bench.measure import paired
from tost.ops import TSSAState, causal_tssa

SHAPE = (1, 12, 64)  # B, H, D of a GPT-2-sized layer
CONTEXT = 512  # tokens that the published formula goes over again for each new one


def decode_records(backends: Sequence[str], rounds: int = 15) -> list[dict[str, Any]]:
    """Microseconds a token of our backends, and of the published formula, which keeps no state, at a context of 512."""
    with torch.no_grad():
        calls: dict[str, Callable[[], object]] = {name: _step(name) for name in backends}
        calls["published"] = _recompute()
        samples = paired(calls, rounds)
    return [{"contestant": name, "us": 1e6 * median(taken)} for name, taken in samples.items()]


def _step(backend: str) -> Callable[[], object]:
    B, H, D = SHAPE
    w, temperature, state = torch.randn(B, 1, H, D), torch.ones(H), TSSAState.zeros(B, H, D)
    _, state = causal_tssa(w, temperature, state=state, return_state=True, backend=backend)
    return lambda: causal_tssa(w, temperature, state=state, return_state=True, backend=backend)


def _recompute() -> Callable[[], object]:
    B, H, D = SHAPE
    w, temperature = torch.randn(B, H, CONTEXT, D), torch.ones(H, 1)
    return lambda: published.causal(w, temperature)
