"""The causal attention layer: the statistics of a token are those of the tokens before it and itself."""

# B batch, N tokens, H heads, D features per head, C = H*D, L positions

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import check_tokens, head_dim
from tost.ops import TSSAState, causal_tssa


class CausalTSSA(nn.Module):
    """Causal token-statistics self-attention (arXiv 2412.17810, appendix B): O(N) time, constant state.

    x: [B, N, C] -> [B, N, C], or (that, TSSAState) with return_state=True. Passing the state of one call to the next
    continues the sequence: any split gives what one call gives.  mask, cu_seqlens: as in TSSA.
    max_positions L: a learned bias [H, L] per head and position, zero at first (None: no bias, any length).
    decay: in (0, 1], one number or one per head, by which all statistics are multiplied at every token (None: 1).
    `attn_drop` zeroes entries of 1 / (1 + m), as published one draw per token. `backend` is tost.ops.causal_tssa's.
    Raises ValueError for sizes that disagree, a decay outside (0, 1], or positions beyond L.
    """

    undecayed = ("temperature", "position_bias")
    decay: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        bias: bool = False,
        max_positions: int | None = None,
        decay: float | Sequence[float] | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim("CausalTSSA", dim, num_heads)
        self.attn_drop = attn_drop
        self.backend = backend
        self.in_proj = nn.Linear(dim, dim, bias=bias)
        self.temperature = nn.Parameter(torch.ones(num_heads))
        self.position_bias = None if max_positions is None else nn.Parameter(torch.zeros(num_heads, max_positions))
        self.register_buffer("decay", decay_per_head(decay, num_heads))
        self.out_proj = nn.Linear(dim, dim, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: TSSAState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, TSSAState]:
        check_tokens("CausalTSSA", x, self.dim)
        w = self.in_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        result = causal_tssa(
            w,
            self.temperature,
            position_bias=self.position_bias,
            decay=self.decay,
            mask=mask,
            cu_seqlens=cu_seqlens,
            state=state,
            return_state=return_state,
            backend=self.backend,
        )
        y, new_state = result if isinstance(result, tuple) else (result, None)
        y = F.dropout(y, self.attn_drop, self.training)  # y is linear in 1 / (1 + m)
        out = self.proj_drop(self.out_proj(y.flatten(-2)))
        return out if new_state is None else (out, new_state)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, attn_drop={self.attn_drop}, backend={self.backend}"


def decay_per_head(decay: float | Sequence[float] | None, num_heads: int) -> Tensor | None:
    """`decay` as a tensor [H], checked."""
    if decay is None:
        return None
    values = torch.as_tensor(decay, dtype=torch.float32)
    values = values.expand(num_heads).clone() if values.ndim == 0 else values.clone()
    if values.shape != (num_heads,) or not bool(((values > 0) & (values <= 1)).all()):
        raise ValueError(
            f"CausalTSSA expects decay in (0, 1], one number or one for each of {num_heads} heads, got {decay}"
        )
    return values
