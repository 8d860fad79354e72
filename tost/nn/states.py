"""What causal layers remember between calls, besides the operators' states: named tuples of tensors."""

# B batch, T tokens so far, H heads, D features per head, C = H*D, K width of a convolution

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

AnyState = TypeVar("AnyState", bound=tuple)


class KeyValueState(NamedTuple):
    """The keys and values of all tokens so far: it grows with them, unlike a TSSAState.

    keys, values: [B, T, H, D].  real: [B, T] bool, False for padding.  length: [B] int64, real tokens.
    """

    keys: Tensor
    values: Tensor
    real: Tensor
    length: Tensor


class CountState(NamedTuple):
    """What a layer without memory remembers: how many real tokens there were, length [B] int64."""

    length: Tensor


class ConvolvedState(NamedTuple):
    """What a layer behind a short convolution remembers: the last inputs, tail [B, K-1, C], and its own state."""

    tail: Tensor
    inner: Any

    @property
    def length(self) -> Tensor:
        """[B] int64, real tokens so far."""
        return self.inner.length


def map_state(state: AnyState, function: Callable[[Tensor], Tensor]) -> AnyState:
    """The state whose tensors are function(tensor), states within it included."""
    parts = [map_state(part, function) if isinstance(part, tuple) else function(part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def state_tensors(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a state by its dotted name; parts of a plain tuple are named by number."""
    found: dict[str, Tensor] = {}
    named = state._asdict() if hasattr(state, "_asdict") else dict(enumerate(state))
    for name, part in named.items():
        found.update(state_tensors(part, f"{prefix}{name}.") if isinstance(part, tuple) else {f"{prefix}{name}": part})
    return found
