"""Optimiser groups: which parameters decay, and at which learning rate."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from tost.nn import no_weight_decay


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for torch.optim holding every trainable parameter of `model` exactly once.

    Vectors and scalars (biases, norms, LayerScale, temperatures) never decay, nor does what a module lists in its
    `undecayed`. With layer_decay < 1 the learning rate of a block is layer_decay times that of the block after it.
    Raises ValueError if a module lists a name that it doesn't have.
    """
    excluded = no_weight_decay(model)
    depth = 1 + max((index for name, _ in model.named_parameters() if (index := _block(name)) is not None), default=-1)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name in excluded else weight_decay
        scale = layer_decay ** _layers_after(name, depth)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr": lr * scale})
        group["params"].append(parameter)
    return list(groups.values())


def _block(name: str) -> int | None:
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _layers_after(name: str, depth: int) -> int:
    """How many layers follow the one `name` is in: class attention and head count as one, the stem comes first."""
    block = _block(name)
    if block is not None:
        return depth - block
    return 0 if name.startswith(("cls_", "norm.", "head.")) else depth + 1
