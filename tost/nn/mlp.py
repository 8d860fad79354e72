"""The token-wise half of a block, in GPT-2's form and in Llama's."""

# B batch, N tokens, C features

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.linear import Linear, heard, product, uses_onednn

TILE = 3 * 2**20  # hidden values (12 MB) worked on at a time in inference: they stay in the cache and in mapped pages


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear, with dropout after the GELU and at the end.  x: [B, N, dim] -> [B, N, dim]."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden, bias=bias)
        self.fc2 = Linear(hidden, dim, bias=bias)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        fc1, fc2 = self.fc1, self.fc2
        dropping = self.training and self.drop.p > 0
        if torch.is_grad_enabled() or dropping or heard(fc1) or heard(fc2) or not uses_onednn(x, fc1, fc2):
            return self.drop(fc2(self.drop(F.gelu(fc1(x)))))
        rows = max(64, TILE // fc1.out_features // 64 * 64)
        done = [self._fused(tile) for tile in x.flatten(0, -2).split(rows)]
        return (done[0] if len(done) == 1 else torch.cat(done)).view(x.shape)

    def _fused(self, x: Tensor) -> Tensor:
        """Both layers, the GELU within the first one's pass."""
        h = product(x, self.fc1.weight, self.fc1.bias, then="gelu")
        return product(h, self.fc2.weight, self.fc2.bias)


class GatedMlp(nn.Module):
    """SwiGLU (arXiv 2002.05202): fc2(silu(gate(x)) * fc1(x)), with dropout as Mlp.  x: [B, N, dim] -> [B, N, dim]."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.gate = Linear(dim, hidden, bias=bias)
        self.fc1 = Linear(dim, hidden, bias=bias)
        self.fc2 = Linear(hidden, dim, bias=bias)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.silu(self.gate(x)) * self.fc1(x))))
