"""The causal operator's recurrence over the tokens of each sequence, its reverse, and its states.

    h_t = gate_t h_{t-1} + x_t            A_t = x_t + gate_{t+1} A_{t+1}

The gate is the decay; masked tokens have gate 1 (they pass the state on).
"""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tost.ops.scan import decayed_sum, running_sum
from tost.ops.segments import segment_ids


def recurrence_of(
    shape: torch.Size, decay: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor | None
) -> DenseRecurrence | PackedRecurrence:
    """The recurrence for tokens of shape [B, N, H, D]."""
    gate = None if decay is None else decay.expand(shape[:3])
    if gate is not None and mask is not None:
        gate = torch.where(mask.unsqueeze(-1), gate, 1.0)
    if cu_seqlens is None:
        return DenseRecurrence(gate, decay if mask is None else None)
    return PackedRecurrence(shape, gate, decay, mask, cu_seqlens)


class DenseRecurrence:
    """One sequence a batch row; states are [B, H, D] float64.

    gate: [B, N, H] or None for 1.  decay: [H], if it is every token's gate.
    """

    def __init__(self, gate: Tensor | None, decay: Tensor | None = None) -> None:
        self.gate, self.decay = gate, decay

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """h at every token [B, N, H, D] in x's dtype, and after the last one [B, H, D] float64."""
        if self.decay is not None and torch.compiler.is_exporting():
            return decayed_sum(x, self.decay, state)
        return running_sum(x, self.gate, state)

    def previous(self, h: Tensor, state: Tensor | None) -> Tensor:
        """h before every token, in h's dtype."""
        first = torch.zeros_like(h[:, :1]) if state is None else state.to(h.dtype).unsqueeze(1)
        return torch.cat([first, h[:, :-1]], 1) if h.shape[1] else h

    def reverse(self, x: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """A at every token, `end` arriving from behind the last one; and the incoming state's gradient."""
        return running_sum(x, self.gate, end.double(), reverse=True)

    def following(self, A: Tensor, end: Tensor) -> Tensor:
        """gate_{t+1} A_{t+1} at every token: what `reverse` brings from behind it."""
        if A.shape[1] == 0:
            return A
        after = A[:, 1:] if self.gate is None else A[:, 1:] * self.gate[:, 1:].unsqueeze(-1).to(A.dtype)
        return torch.cat([after, end.to(A.dtype).unsqueeze(1)], 1)


class PackedRecurrence:
    """Sequences one after another in a row; a sequence's first token has gate 0, states [S, H, D] enter beside it."""

    def __init__(
        self, shape: torch.Size, gate: Tensor | None, decay: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor
    ) -> None:
        N, H = shape[1:3]
        self.count = cu_seqlens.numel() - 1
        self.filled = (cu_seqlens.diff() > 0)[:, None, None]
        self.first, self.last = cu_seqlens[:-1].clamp(max=max(N - 1, 0)), (cu_seqlens[1:] - 1).clamp(min=0)
        self.ids = segment_ids(N, cu_seqlens)
        self.starts = (torch.arange(N, device=cu_seqlens.device) == cu_seqlens[self.ids]).view(1, N, 1)
        ones = torch.ones(1, N, H, dtype=torch.float64, device=cu_seqlens.device)
        self.gate = ones if gate is None else gate
        self.cut = torch.where(self.starts, 0.0, self.gate)
        if decay is None:
            self.survive = ones.unsqueeze(-1)  # [1, N, H, 1], what an incoming state still counts for
        else:
            real = torch.ones(N, dtype=torch.int64, device=cu_seqlens.device) if mask is None else mask[0].long()
            seen = F.pad(real.cumsum(0), (1, 0))
            passed = (seen[1:] - seen[cu_seqlens[:-1].long()][self.ids]).unsqueeze(-1)
            self.survive = (decay.double() ** passed)[None, :, :, None]

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """h at every token [1, N, H, D] in x's dtype, and at the end of every sequence [S, H, D] float64."""
        h, _ = running_sum(x, self.cut)
        if x.shape[1] == 0:
            nothing = x.new_zeros(self.count, *x.shape[2:], dtype=torch.float64)
            return h, nothing if state is None else nothing + state
        end = torch.where(self.filled, h[0, self.last].double(), 0.0)
        if state is not None:
            h = (h + self.survive * state[self.ids]).to(x.dtype)
            end = end + torch.where(self.filled, self.survive[0, self.last], 1.0) * state
        return h, end

    def previous(self, h: Tensor, state: Tensor | None) -> Tensor:
        """h before every token, in h's dtype."""
        if h.shape[1] == 0:
            return h
        first = torch.zeros_like(h) if state is None else state.to(h.dtype)[self.ids].unsqueeze(0)
        return torch.where(self.starts.unsqueeze(-1), first, h.roll(1, 1))

    def reverse(self, x: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """A at every token, with `end` arriving at the last of every sequence; and the incoming states' gradient."""
        if x.shape[1] == 0:
            return x, end.double().clone()
        A, _ = running_sum(x.index_add(1, self.last, self._arriving(x, end)), self.cut, reverse=True)
        entering = self.gate[0, self.first].unsqueeze(-1) * A[0, self.first].double()
        return A, torch.where(self.filled, entering, end.double())

    def following(self, A: Tensor, end: Tensor) -> Tensor:
        """gate_{t+1} A_{t+1} at every token, `end` at the last of every sequence."""
        if A.shape[1] == 0:
            return A
        after = A[:, 1:] * self.cut[:, 1:].unsqueeze(-1).to(A.dtype)
        return F.pad(after, (0, 0, 0, 0, 0, 1)).index_add(1, self.last, self._arriving(A, end))

    def _arriving(self, x: Tensor, end: Tensor) -> Tensor:
        return torch.where(self.filled, end, 0.0).to(x.dtype).unsqueeze(0)
