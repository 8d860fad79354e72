"""A conversation on disk: the model's state, and the last tokens, which it has not been fed yet."""

# n tokens

from __future__ import annotations

import os
from typing import Any

import safetensors
import torch
from torch import Tensor

from tost.models.language import load_state, save_state

TAIL = "tail"


def save_conversation(cache: Any, tail: Tensor, path: str | os.PathLike[str], model: Any) -> None:
    """What save_state writes, and `tail` [n]: the tokens after those in `cache`. The file appears whole or not at all.

    load_state reads it too. Raises ValueError if `cache` has seen no token or is not the model's.
    """
    save_state(cache, path, model, {TAIL: tail.detach().to("cpu", torch.int64).contiguous()})


def load_conversation(path: str | os.PathLike[str], model: Any) -> tuple[Any, Tensor]:
    """(cache, tail [n]) of save_conversation's file, or of save_state's, whose tail is empty.

    Raises ValueError if the file is damaged, no state, or the state of another model.
    """
    cache = load_state(path, model)
    with safetensors.safe_open(path, framework="pt") as file:
        tail = file.get_tensor(TAIL) if TAIL in file.keys() else torch.empty(0, dtype=torch.int64)  # noqa: SIM118
    return cache, tail.to(next(model.parameters()).device)
