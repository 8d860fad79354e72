"""The published language model in plain torch, with the released code's parameter names: the rival of comparisons.

Written from the paper and the public description of nanoGPT, whose other parts it keeps; not rearranged for speed.
"""

# B batch, N tokens, H heads, D features per head, C = H*D, L positions, V vocabulary

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.bench import published


class PublishedAttention(nn.Module):
    """The released causal TSSA layer; denom_bias [H, L, 1] enters once per feature."""

    def __init__(self, dim: int, heads: int, length: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(dim, dim, bias=bias)
        self.c_proj = nn.Linear(dim, dim, bias=bias)
        self.temp = nn.Parameter(torch.ones(heads, 1))
        self.denom_bias = nn.Parameter(torch.zeros(heads, length, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        w = self.c_attn(x).view(B, N, self.heads, C // self.heads).transpose(1, 2)  # [B, H, N, D]
        y = published.causal(w, self.temp, self.denom_bias[:, :N])
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, N, C))


class PublishedMlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(dim, 4 * dim, bias=bias)
        self.c_proj = nn.Linear(4 * dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class PublishedBlock(nn.Module):
    """Pre-norm residual block with LayerScale."""

    def __init__(self, dim: int, heads: int, length: int, bias: bool, scale: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, bias=bias)
        self.attn = PublishedAttention(dim, heads, length, bias)
        self.ln_2 = nn.LayerNorm(dim, bias=bias)
        self.mlp = PublishedMlp(dim, bias)
        self.gamma1 = nn.Parameter(scale * torch.ones(dim))
        self.gamma2 = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attn(self.ln_1(x))
        return x + self.gamma2 * self.mlp(self.ln_2(x))


class PublishedTransformer(nn.Module):
    """Everything but the head: token ids [B, N], N <= length -> [B, N, C]."""

    def __init__(self, vocab: int, length: int, layers: int, heads: int, dim: int, bias: bool, scale: float) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        self.wpe = nn.Embedding(length, dim)
        self.h = nn.ModuleList(PublishedBlock(dim, heads, length, bias, scale) for _ in range(layers))
        self.ln_f = nn.LayerNorm(dim, bias=bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class PublishedLanguage(nn.Module):
    """Token ids [B, N], N <= length -> logits [B, N, V]."""

    def __init__(
        self,
        vocab: int = 50304,
        length: int = 1024,
        layers: int = 12,
        heads: int = 12,
        dim: int = 768,
        bias: bool = False,
        scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.length = length
        self.transformer = PublishedTransformer(vocab, length, layers, heads, dim, bias, scale)
        self.lm_head = nn.Linear(dim, vocab, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.transformer(ids))

    @torch.no_grad()
    def generate(self, ids: Tensor, new: int) -> Tensor:
        """Greedy text as the released code makes it: all of the last L tokens again for every new one."""
        for _ in range(new):
            ids = torch.cat([ids, self.next_logits(ids).argmax(-1, keepdim=True)], dim=1)
        return ids

    def next_logits(self, ids: Tensor) -> Tensor:
        """[B, V] after the last token; only its features meet the head."""
        return self.lm_head(self.transformer(ids[:, -self.length :])[:, -1])
