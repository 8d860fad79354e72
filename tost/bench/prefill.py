"""Peak memory of reading a long text, whole or in chunks, in a process of its own.

`python -m tost.bench.prefill REQUEST` is that process; `prefill_records` starts it for every text.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from tost.bench.memory import read_peak, reset_peak, settled

MODEL = "nano"
VOCAB = 4096


def prefill_records(texts: Sequence[tuple[int, int]], timeout: float = 600) -> list[dict[str, Any]]:
    """Bytes beyond model and token ids, and of the state afterwards, of each (tokens, tokens a chunk or 0: whole)."""
    return [{"tokens": tokens, "chunk": chunk, **_child(tokens, chunk, timeout)} for tokens, chunk in texts]


def _child(tokens: int, chunk: int, timeout: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tost.bench.prefill", json.dumps([tokens, chunk, torch.get_num_threads()])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"bytes": None, "state_bytes": None, "note": f"over {timeout:.0f} s"}
    if done.returncode or not done.stdout.startswith("{"):
        return {"bytes": None, "state_bytes": None, "note": "stopped, out of memory?"}
    return json.loads(done.stdout) | {"note": None}


@torch.inference_mode()
def measure(tokens: int, chunk: int) -> dict[str, int | None]:
    """Read a text of random tokens and say what it took."""
    from tost.bench.language_models import random_text, size_of, tost_model
    from tost.models.language import state_nbytes

    size = size_of(MODEL, vocab=VOCAB)
    model, ids = tost_model(size, None), random_text(size, tokens)
    read(model, ids[:, :128], 64)
    before = settled()
    reset_peak()
    cache = read(model, ids, chunk or tokens)
    peak = read_peak()
    return {"bytes": None if peak is None else max(0, peak - before), "state_bytes": state_nbytes(cache)}


def read(model: Any, ids: torch.Tensor, chunk: int) -> Any:
    """The cache after a text [1, N], fed `chunk` tokens at a time."""
    cache = None
    for part in ids.split(chunk, dim=1):
        cache = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
    return cache


if __name__ == "__main__":
    wanted, size, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    print(json.dumps(measure(wanted, size)))
