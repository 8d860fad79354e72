"""Contract and broadcast: a few representatives attend to all tokens and to each other, and pass the result back."""

# B batch, N tokens, H heads, D features per head, C = H*D, R representatives

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import check_mask, check_tokens, head_dim
from tost.nn.linear import Linear


class CBSA(nn.Module):
    """Contract-and-broadcast self-attention after arXiv 2509.16875, for sequences: O(N R) time.

        w = in_proj(x)      q_r = mean of w over the r-th of R stretches of tokens
        A = softmax_n(q w^T / sqrt D)      r = q + step_r A w      y = step_x A^T (softmax(r r^T / sqrt D) r)

    x: [B, N, C] -> [B, N, C].  mask: [B, N] bool, True = a real token; no other token changes a real token's output.
    The paper pools images over a grid; here the stretches follow the order of the tokens, whatever they are.
    `attn_drop` zeroes entries of A.  Raises ValueError for sizes that disagree.
    """

    undecayed = ("step_x", "step_r")

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        representatives: int = 16,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim("CBSA", dim, num_heads)
        self.attn_drop, self.representatives = attn_drop, representatives
        self.in_proj = Linear(dim, dim, bias=bias)
        self.step_x = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.step_r = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.out_proj = Linear(dim, dim, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_tokens("CBSA", x, self.dim)
        check_mask("CBSA", mask, x)
        w = self.in_proj(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, H, N, D]
        pool = self._stretches(x, mask)[:, None]  # [B, 1, R, N]
        filled = pool.any(-1, keepdim=True)  # stretches with a token in them
        q = (pool.to(w.dtype) @ w) / pool.sum(-1, keepdim=True).clamp_min(1)
        scores = q @ w.transpose(-1, -2) * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], torch.finfo(w.dtype).min)
        seen = filled if mask is None else filled & mask[:, None, None]
        attention = F.dropout(scores.softmax(-1) * seen, self.attn_drop, self.training)
        r = q + self.step_r * (attention @ w)
        inner = (r @ r.transpose(-1, -2) * self.head_dim**-0.5).masked_fill(
            ~filled.transpose(-1, -2), torch.finfo(w.dtype).min
        )
        y = self.step_x * (attention.transpose(-1, -2) @ (inner.softmax(-1) @ r))
        return self.proj_drop(self.out_proj(y.transpose(1, 2).flatten(-2)))

    def _stretches(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, R, N] bool: which stretch each real token is in; a stretch holds neighbours, as equal as they can be."""
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        count = real.sum(1, keepdim=True).clamp_min(1)
        place = (real.cumsum(1) - 1).clamp_min(0) * self.representatives // count
        stretch = torch.arange(self.representatives, device=x.device)[:, None]
        return (place[:, None] == stretch) & real[:, None]
