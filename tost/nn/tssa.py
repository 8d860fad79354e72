"""The drop-in attention layer: project, compress against the statistics of all tokens, project back."""

# B batch, N tokens, H heads, D features per head, C = H*D, S packed sequences

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import check_tokens, head_dim
from tost.nn.linear import Linear
from tost.nn.split import Split, refuse
from tost.ops import tssa


class TSSA(nn.Module):
    """Token-statistics self-attention (arXiv 2412.17810, section 3): O(N) time, O(H D) extra memory.

        w = in_proj(x)      y = tssa(w, temperature)      out = out_proj(y)

    x: [B, N, C] -> [B, N, C] in x's dtype.  mask: [B, N] bool, True = a real token (the others change no real token).
    cu_seqlens: [S + 1], boundaries of sequences packed along N (then B = 1).
    `attn_drop` zeroes entries of 1 / (1 + m), one draw per sequence, head and feature. `backend` is tost.ops.tssa's.
    Raises ValueError if num_heads doesn't divide dim, or x is not [B, N, dim].
    """

    undecayed: ClassVar[tuple[str, ...]] = ("temperature",)
    packs = True  # takes cu_seqlens
    split_over: Split | None = None  # other processes, while they hold other stretches of the sequence

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim("TSSA", dim, num_heads)
        self.attn_drop = attn_drop
        self.backend = backend
        self.in_proj = Linear(dim, dim, bias=bias)
        self.temperature = nn.Parameter(torch.ones(num_heads))
        self.out_proj = Linear(dim, dim, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        check_tokens("TSSA", x, self.dim)
        w = self.project(x)
        if self.split_over is None:
            y = tssa(w, self.temperature, mask=mask, cu_seqlens=cu_seqlens, backend=self.backend)
        else:
            y = self.split_over.tssa(w, self.temperature, mask, cu_seqlens)
        if self.training and self.attn_drop > 0:
            y = y * self._dropout(y, cu_seqlens)
        return self.proj_drop(self.out_proj(y.flatten(-2)))

    def project(self, x: Tensor) -> Tensor:
        """w [B, N, H, D], the tokens in each head's subspace: what the operator compresses."""
        return self.in_proj(x).unflatten(-1, (self.num_heads, self.head_dim))

    def membership(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """Pi [B, N, H], how the operator shares the tokens among the heads; 0 for masked ones."""
        if self.split_over is not None:
            refuse("memberships to look at")
        _, stats = tssa(
            self.project(x),
            self.temperature,
            mask=mask,
            cu_seqlens=cu_seqlens,
            return_stats=True,
            backend=self.backend,
        )
        return stats.membership

    def _dropout(self, y: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """y is linear in 1 / (1 + m), so dropping that is a factor of y shared by a sequence's tokens."""
        H, D = y.shape[2:]
        if cu_seqlens is None:
            draw = F.dropout(y.new_ones(y.shape[0], 1, H, D), self.attn_drop)
            return draw if self.split_over is None else self.split_over.shared(draw)
        lengths = cu_seqlens.diff().to(y.device)
        return F.dropout(y.new_ones(lengths.shape[0], H, D), self.attn_drop).repeat_interleave(lengths, dim=0)[None]

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, attn_drop={self.attn_drop}, backend={self.backend}"
