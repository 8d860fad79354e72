"""Running sums over tokens that do not drift: the one building block of the causal operator in plain torch."""

# B batch, N tokens, H heads, D features per head, L tokens per chunk, C chunks

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32  # a triangular product of this size costs less than the memory traffic it replaces


def running_sum(x: Tensor, gate: Tensor | None = None, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gated running sum over dim 1; the sum of whole chunks is carried in float64, so its error does not grow with N.

        h_t = gate_t * h_{t-1} + x_t,   h_0 = base

    x: [B, N, H, D].  gate: [B, N, H] in [0, 1] (None: all ones).  base: [B, H, D] float64 (None: zero).
    Returns h in x's dtype and h_N [B, H, D] in float64.
    """
    B, N, H, D = x.shape
    if base is None:
        base = x.new_zeros(B, H, D, dtype=torch.float64)
    if N == 0:
        return x, base
    L = min(CHUNK, N)
    padding = -N % L
    if padding:
        x = F.pad(x, (0, 0, 0, 0, 0, padding))
        gate = None if gate is None else F.pad(gate, (0, 0, 0, padding), value=1.0)
    x = x.unflatten(1, (-1, L))
    out, end = _plain(x, base) if gate is None else _gated(x, gate.unflatten(1, (-1, L)), base)
    out = out.flatten(1, 2)
    return (out[:, :N] if padding else out), end


def _plain(x: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """`running_sum` of chunks [B, C, L, H, D] whose gates are all one: one product with a triangle a chunk."""
    B, C, L, H, D = x.shape
    sums = x.sum(2).double()
    after = sums.cumsum(1) + base.unsqueeze(1)
    before = (after - sums).to(x.dtype).view(B * C, 1, H * D)
    triangle = x.new_ones(L, L).tril().expand(B * C, L, L)
    out = torch.baddbmm(before, triangle, x.reshape(B * C, L, H * D))
    return out.view(x.shape), after[:, -1]


def _gated(x: Tensor, gate: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """`running_sum` of chunks [B, C, L, H, D] with gates [B, C, L, H]; the chunks' ends are scanned by the same rule."""
    weights = decay_triangle(gate.transpose(2, 3)).to(x.dtype)  # [B, C, H, L, L]
    local = (weights @ x.transpose(2, 3)).transpose(2, 3)
    survive = gate.double().cumprod(2).unsqueeze(-1)  # what the state before the chunk still counts for
    ends = local[:, :, -1].double()
    if x.shape[1] == 1:
        before, end = base.unsqueeze(1), survive[:, 0, -1] * base + ends[:, 0]
    else:
        after, end = running_sum(ends, survive[:, :, -1].squeeze(-1), base)
        before = torch.cat([base.unsqueeze(1), after[:, :-1]], 1)
    return (survive * before.unsqueeze(2) + local).to(x.dtype), end


def decay_triangle(gate: Tensor) -> Tensor:
    """Products of gates out[..., t, s] = prod_{s < r <= t} gate_r for s <= t, else 0: what token s counts for at t.

    gate: [..., L].  Returns float64 [..., L, L].  Products, not differences of logarithms: a gate of 0 stays exact.
    """
    L = gate.shape[-1]
    below = torch.ones(L, L, dtype=torch.bool, device=gate.device).tril(-1)
    return torch.where(below, gate.double().unsqueeze(-1), 1.0).cumprod(-2).tril()


class Recurrence:
    """h_t = gate_t h_{t-1} + x_t over the tokens of each sequence of a batch or of a packed row, and its reverse.

    Masked tokens have gate 1 (they pass the state on); the first token of a packed sequence cuts off its neighbour.
    Incoming and outgoing states are [S, H, D] float64, one a sequence.
    """

    def __init__(self, shape: torch.Size, decay: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor | None) -> None:
        B, N, H, _ = shape
        self.decay, self.mask, self.cu_seqlens = decay, mask, cu_seqlens
        self.gate = None if decay is None else decay.expand(B, N, H)
        if mask is not None and self.gate is not None:
            self.gate = torch.where(mask.unsqueeze(-1), self.gate, 1.0)
        self.cut = self.gate  # the gate with 0 where a packed sequence starts
        if cu_seqlens is not None:
            device = cu_seqlens.device
            lengths = cu_seqlens.diff()
            self.filled = (lengths > 0)[:, None, None]
            self.first, self.last = cu_seqlens[:-1].clamp(max=max(N - 1, 0)), (cu_seqlens[1:] - 1).clamp(min=0)
            token = torch.arange(N, device=device, dtype=cu_seqlens.dtype)
            self.ids = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
            self.starts = (token == cu_seqlens[self.ids]).view(1, N, 1)
            whole = self.gate if self.gate is not None else torch.ones((), dtype=torch.float64, device=device).expand(1, N, H)
            self.cut = torch.where(self.starts, 0.0, whole)
            self.survive = self._survival(mask, N, H)  # what an incoming state still counts for at each token

    def _survival(self, mask: Tensor | None, N: int, H: int) -> Tensor:
        """[1, N, H, 1]: decay to the number of real tokens seen in the sequence so far."""
        if self.decay is None:
            return self.cut.new_ones(1, N, H, 1, dtype=torch.float64)
        real = torch.ones(N, dtype=torch.int64, device=self.ids.device) if mask is None else mask[0].long()
        seen = real.cumsum(0)
        before = torch.where(self.cu_seqlens[:-1] > 0, seen[(self.cu_seqlens[:-1] - 1).clamp(min=0)], 0)
        count = (seen - before[self.ids]).unsqueeze(-1)
        return (self.decay.double() ** count)[None, :, :, None]

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """h at every token [B, N, H, D] in x's dtype, and at the end of every sequence [S, H, D] float64."""
        if self.cu_seqlens is None:
            return running_sum(x, self.gate, state)
        h, _ = running_sum(x, self.cut)
        if x.shape[1] == 0:
            return h, self._no_tokens(x, state)
        end = torch.where(self.filled, h[0, self.last].double(), 0.0)
        if state is not None:
            h = (h + self.survive * state[self.ids]).to(x.dtype)
            end = end + torch.where(self.filled, self.survive[0, self.last], 1.0) * state
        return h, end

    def previous(self, h: Tensor, state: Tensor | None) -> Tensor:
        """h before every token, in h's dtype."""
        if h.shape[1] == 0:
            return h
        if self.cu_seqlens is None:
            first = torch.zeros_like(h[:, :1]) if state is None else state.to(h.dtype).unsqueeze(1)
            return torch.cat([first, h[:, :-1]], 1)
        shifted = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        first = torch.zeros_like(h) if state is None else state.to(h.dtype)[self.ids].unsqueeze(0)
        return torch.where(self.starts.unsqueeze(-1), first, shifted)

    def reverse(self, x: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A_t = x_t + gate_{t+1} A_{t+1}, with A = end [S, H, D] after the last token.

        Returns A and gate_{t+1} A_{t+1} at every token, and the gradient to the incoming state [S, H, D] float64.
        """
        if x.shape[1] == 0:
            return x, x, end.double()
        following = None if self.cut is None else torch.cat([self.cut[:, 1:], torch.ones_like(self.cut[:, :1])], 1)
        flipped_gate = None if following is None else following.flip(1).expand(x.shape[:3])
        if self.cu_seqlens is None:
            A, A_first = running_sum(x.flip(1), flipped_gate, end.double())
            A, tail = A.flip(1), end.to(x.dtype).unsqueeze(1)
        else:
            spread = torch.where(self.filled, end, 0.0).to(x.dtype)
            x = x + torch.zeros_like(x).index_add(1, self.last, spread.unsqueeze(0))
            A, _ = running_sum(x.flip(1), flipped_gate)
            A, tail = A.flip(1), torch.zeros_like(x[:, :1])
            A_first = A[0, self.first].double()
        after = torch.cat([A[:, 1:], tail], 1)
        if following is not None:
            after = following.to(x.dtype).unsqueeze(-1) * after
        if self.cu_seqlens is not None:  # the cotangent of a sequence's end arrives after its last token
            after = after + torch.zeros_like(x).index_add(1, self.last, spread.unsqueeze(0))
        return A, after, self._enter(A_first, end)

    def _enter(self, A_first: Tensor, end: Tensor) -> Tensor:
        """The gradient to the incoming state: through the first token's gate; untouched where there is no token."""
        if self.gate is None:
            through = A_first
        elif self.cu_seqlens is None:
            through = self.gate[:, 0].unsqueeze(-1) * A_first
        else:
            through = self.gate[0, self.first].unsqueeze(-1) * A_first
        return through if self.cu_seqlens is None else torch.where(self.filled, through, end.double())

    def _no_tokens(self, x: Tensor, state: Tensor | None) -> Tensor:
        if state is not None:
            return state
        return x.new_zeros(self.cu_seqlens.numel() - 1, *x.shape[2:], dtype=torch.float64)
