"""Causal mixers that see no other token: what a comparison must beat before it speaks of memory."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import check_mask, check_tokens
from tost.nn.order import count_after
from tost.nn.readout import ReadoutMixer
from tost.nn.states import CountState
from tost.ops import causal_tssa


class CausalNone(ReadoutMixer):
    """CausalTSSA's two projections and nothing between tokens: out = out_proj(in_proj(x)).

    x: [B, N, C] -> [B, N, C], or (that, CountState) with return_state=True. Mask, packing and state change nothing.
    output_gate, head_norm: of the Readout.
    """

    State = CountState

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: CountState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, CountState]:
        check_tokens(type(self).__name__, x, self.dim)
        check_mask(type(self).__name__, mask, x)
        (w,), gate = self.readout.split(self.in_proj(x))
        y = F.dropout(self.alone(w), self.attn_drop, self.training)
        out = self.proj_drop(self.out_proj(self.readout(y, gate)))
        if not return_state:
            return out
        return out, CountState(count_after(x, mask, None if state is None else state.length))

    def alone(self, w: Tensor) -> Tensor:
        """What happens to a token between the projections: [B, N, H, D] -> [B, N, H, D]."""
        return w


class CausalToken(CausalNone):
    """CausalTSSA with the statistics of the token alone, as if each were the first: its nonlinearity, no memory.

    pi = softmax_h(temperature_h * D)      y = -pi * w / (1 + w^2)      (each feature's w^2 / a is 1)
    """

    undecayed = ("temperature",)

    def __init__(self, dim: int, num_heads: int = 8, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.temperature = nn.Parameter(torch.ones(num_heads))

    def alone(self, w: Tensor) -> Tensor:
        single = w.reshape(-1, 1, *w.shape[2:])
        return causal_tssa(single, self.temperature).reshape(w.shape)
