"""Class attention: one [CLS] token gathers from all patches, in O(N)."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import head_dim
from tost.nn.mlp import Mlp


class ClassAttention(nn.Module):
    """Softmax attention with one query, the [CLS] token (CaiT, arXiv 2103.17239).

    cls: [B, 1, C], tokens: [B, N, C] -> [B, 1, C]; keys and values come from both.  mask: [B, N] bool, True = real.
    With a single query the projections need not touch the tokens: q . (W_k x) = (W_k^T q) . x, and
    sum_n p_n W_v x_n = W_v sum_n p_n x_n. So it costs N H C products, not N C^2. (The softmax cancels the key's bias.)
    """

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim("ClassAttention", dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, cls: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        p = self.attn_drop(self.weights(cls, tokens, mask))
        pooled = p[:, :, :1] * cls + p[:, :, 1:] @ tokens  # [B, H, C]
        bias = None if self.qkv.bias is None else self.qkv.bias.chunk(3)[2].unflatten(0, (self.num_heads, -1))
        value = torch.einsum("bhc,hdc->bhd", pooled, self._projection(2))
        if bias is not None:
            value = value + p.sum(-1, keepdim=True) * bias
        return self.proj_drop(self.proj(value.flatten(1).unsqueeze(1)))

    def weights(self, cls: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention map [B, H, 1 + N] of the [CLS] token over itself and the tokens."""
        bias = None if self.qkv.bias is None else self.qkv.bias.chunk(3)[0]
        q = F.linear(cls[:, 0], self.qkv.weight.chunk(3)[0], bias).unflatten(-1, (self.num_heads, -1))
        query = torch.einsum("bhd,hdc->bhc", q * self.head_dim**-0.5, self._projection(1))
        scores = query @ tokens.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        return torch.cat((query @ cls.transpose(1, 2), scores), dim=-1).softmax(dim=-1)

    def _projection(self, which: int) -> Tensor:
        """[H, D, C]: the weights of the key (1) or the value (2) by head."""
        return self.qkv.weight.chunk(3)[which].unflatten(0, (self.num_heads, -1))


class ClassAttentionBlock(nn.Module):
    """XCiT's class-attention block (arXiv 2106.09681) with its LayerNorm 2 on all tokens.

        n = LN1(x)     x = x + gamma1 * (attention(n) for [CLS], n for the tokens)
        r = LN2(x)     x = r + (gamma2 * MLP(r) for [CLS], r for the tokens)

    cls: [B, 1, C], tokens: [B, N, C] -> the same two.  They are kept apart, which saves joining them at every step.
    """

    undecayed = ("gamma1", "gamma2")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        layer_scale_init: float = 1.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = ClassAttention(dim, num_heads, bias, attn_drop, drop)
        self.gamma1 = nn.Parameter(torch.full((dim,), layer_scale_init))
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.gamma2 = nn.Parameter(torch.full((dim,), layer_scale_init))

    def forward(self, cls: Tensor, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n_cls, n_tokens = self.norm1(cls), self.norm1(tokens)
        cls = torch.addcmul(cls, self.gamma1, self.attn(n_cls, n_tokens, mask))
        tokens = torch.addcmul(tokens, self.gamma1, n_tokens)
        r = self.norm2(cls)
        cls = torch.addcmul(r, self.gamma2, self.mlp(r))
        # r + r for the tokens: doubling the affine part is the same to the bit and a pass shorter
        norm = self.norm2
        tokens = F.layer_norm(tokens, norm.normalized_shape, 2 * norm.weight, 2 * norm.bias, norm.eps)
        return cls, tokens
