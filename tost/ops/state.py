"""What the operators hand back besides their output."""

# B sequences, N tokens, H heads, D features per head

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TSSAStats(NamedTuple):
    """Statistics of one full pass: how the operator saw its tokens. They carry no gradient.

    membership: [B, N, H], Pi, rows sum to 1 (0 for masked tokens).  energy: [B, H, D], a = sum_n w^2.
    mass: [B, H], sum_n Pi.  moment: [B, H, D], m = sum_n Pi w^2 / (mass + 1e-8).
    float32, or float64 for float64 input.
    For packed sequences the first size of energy, mass and moment is the number of sequences.
    """

    membership: Tensor
    energy: Tensor
    mass: Tensor
    moment: Tensor


class TSSAState(NamedTuple):
    """Everything a causal stream remembers: H(2D + 1) sums and a count per sequence, whatever its length.

        energy a = sum_s w_s^2      moment S = sum_s Pi_s w_s^2      mass P = sum_s Pi_s      length = tokens so far

    energy, moment: [B, H, D].  mass: [B, H].  length: [B] int64.  The sums are float64 so that they do not drift.
    A state is a value: the operator returns a new one, so the old one is a snapshot, and using it again a roll-back.
    """

    energy: Tensor
    moment: Tensor
    mass: Tensor
    length: Tensor

    @staticmethod
    def zeros(batch: int, num_heads: int, head_dim: int, *, device: torch.device | str | None = None) -> TSSAState:
        """The state before the first token of `batch` sequences."""
        sums = torch.zeros(batch, num_heads, head_dim, dtype=torch.float64, device=device)
        mass = torch.zeros(batch, num_heads, dtype=torch.float64, device=device)
        return TSSAState(sums, sums.clone(), mass, torch.zeros(batch, dtype=torch.int64, device=device))

    def select(self, indices: Tensor) -> TSSAState:
        """Sequences `indices` [B'] of this state, in that order: reorders beams, forks and drops sequences."""
        return TSSAState(*(part.index_select(0, indices) for part in self))

    def to(self, device: torch.device | str) -> TSSAState:
        """This state on another device."""
        return TSSAState(*(part.to(device) for part in self))

    def detach(self) -> TSSAState:
        """This state without its history (for truncated backpropagation through time)."""
        return TSSAState(*(part.detach() for part in self))

    def clone(self) -> TSSAState:
        """A copy that shares no memory with this one."""
        return TSSAState(*(part.clone() for part in self))

    @property
    def nbytes(self) -> int:
        """Bytes of the four tensors."""
        return sum(part.numel() * part.element_size() for part in self)
