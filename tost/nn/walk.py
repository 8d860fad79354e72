"""Three walks over a model: initialise it, collect what must not decay, choose the operator's backend."""

from __future__ import annotations

from torch import nn

from tost.nn.causal import CausalTSSA
from tost.nn.tssa import TSSA


def init_weights(model: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights and zero biases for every linear layer, as the published vision models."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def no_weight_decay(model: nn.Module) -> set[str]:
    """Full names of the parameters that modules exclude from weight decay, each by its own `undecayed` tuple.

    Raises ValueError if a module excludes a name it has no attribute for.
    """
    names = set()
    for prefix, module in model.named_modules():
        for name in getattr(module, "undecayed", ()):
            if not hasattr(module, name):
                raise ValueError(f"{type(module).__name__} excludes {name!r} from weight decay but has no such name")
            if getattr(module, name) is not None:
                names.add(f"{prefix}.{name}" if prefix else name)
    return names


def use_backend(model: nn.Module, backend: str | None) -> nn.Module:
    """Let every token-statistics layer of `model` use one backend of tost.ops, or None to choose; returns the model."""
    for module in model.modules():
        if isinstance(module, (TSSA, CausalTSSA)):
            module.backend = backend
    return model
