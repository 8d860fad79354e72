"""Looking at every block while a model runs: one layer at a time, so that memory does not grow with depth or data."""

# B batch, N tokens, H heads, P features per head, C = H*P

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tost.nn import TSSA, CausalTSSA, ClassAttention
from tost.rates.record import evaluating


@dataclass(frozen=True)
class Sight:
    """One block of one forward pass.

    scored: [B, N, C], what the mixer was given: LN1 of the block's input, behind its short convolution if it has one.
    output: [B, N, C] of the block.  membership: Pi [B, N, H], None for a mixer without memberships.
    """

    layer: str
    block: Any
    scored: Tensor
    output: Tensor
    membership: Tensor | None

    def projected(self, tokens: Tensor) -> Tensor:
        """w [B, N, H, P], what the block's operator would compress of `tokens`."""
        tokens = self.normalised(tokens)
        return self.block.mixer.project(tokens)

    def normalised(self, tokens: Tensor) -> Tensor:
        """`tokens` as the block's mixer would see them."""
        tokens = self.block.norm1(tokens)
        conv = getattr(self.block, "conv", None)
        return tokens if conv is None else conv(tokens, None)[0]


def mixing_blocks(model: nn.Module) -> dict[str, Any]:
    """Name -> block with a token mixer, in the order they run."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "mixer", None), nn.Module) and hasattr(module, "norm1")
    }


def has_memberships(model: nn.Module) -> bool:
    """Whether the recorders of tost.rates find a block to record."""
    return any(isinstance(block.mixer, (TSSA, CausalTSSA)) for block in mixing_blocks(model).values())


def has_class_attention(model: nn.Module) -> bool:
    """Whether a [CLS] token gathers from the others."""
    return any(isinstance(module, ClassAttention) for module in model.modules())


@contextmanager
def watching(model: nn.Module, see: Callable[[Sight], None]) -> Iterator[None]:
    """Within, `see` is called after every block of every forward pass; afterwards the model has no hook of ours.

    Composes with the recorders of tost.rates: one forward pass serves all. Nothing that a block returns changes.
    """
    with ExitStack() as stack:
        for name, block in mixing_blocks(model).items():
            for handle in _hooks(name, block, see):
                stack.callback(handle.remove)
        yield


@torch.no_grad()
def run(model: nn.Module, batch: Any) -> Any:
    """The model's answer to a tensor or a mapping of arguments, in eval mode; each module's mode comes back."""
    with evaluating(model):
        return model(**batch) if isinstance(batch, dict) else model(batch)


def _hooks(name: str, block: Any, see: Callable[[Sight], None]) -> Iterator[Any]:
    seen: dict[str, Tensor] = {}

    def before(mixer: Any, inputs: tuple, given: dict[str, Any]) -> None:
        seen["scored"] = inputs[0]
        if isinstance(mixer, (TSSA, CausalTSSA)):
            with torch.no_grad():
                seen["membership"] = mixer.membership(inputs[0], **_membership_arguments(given))

    def after(_: nn.Module, inputs: tuple, output: Tensor) -> None:
        see(Sight(name, block, seen.pop("scored"), output, seen.pop("membership", None)))

    yield block.mixer.register_forward_pre_hook(before, with_kwargs=True)
    yield block.register_forward_hook(after)


def _membership_arguments(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in ("mask", "state") and value is not None}
