"""The derived token-wise half of a block: one step of sparse coding in place of the MLP."""

# B batch, N tokens, C features

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Ista(nn.Module):
    """One step of ISTA on min_a |x - W a|^2 / 2 + lambda |a|_1, a >= 0, from a = x (CRATE, arXiv 2306.01129).

    out = relu(x + step * (W^T (x - W x) - lambda))

    x: [B, N, dim] -> [B, N, dim], the whole new value: no residual is added to it.  W: [dim, dim], learned.
    """

    def __init__(self, dim: int, step: float = 0.1, sparsity: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.weight)
        self.step, self.sparsity = step, sparsity

    def forward(self, x: Tensor) -> Tensor:
        residual = x - F.linear(x, self.weight)
        return F.relu(x + self.step * (F.linear(residual, self.weight.t()) - self.sparsity))

    def extra_repr(self) -> str:
        return f"dim={len(self.weight)}, step={self.step}, sparsity={self.sparsity}"
