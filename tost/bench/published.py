"""Both published operators in plain torch, formula by formula: the rival of every comparison.

Layout [B, H, N, D], as the published layers arrange it; nothing is rearranged for speed.
"""

# B batch, H heads, N tokens, D features per head

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full(w: Tensor, temperature: Tensor) -> Tensor:
    """The published full operator.  w: [B, H, N, D].  temperature: [H, 1].  Returns [B, H, N, D]."""
    unit = F.normalize(w, dim=-2) ** 2
    pi = torch.softmax(unit.sum(-1) * temperature, dim=1)  # [B, H, N], over heads
    share = pi / (pi.sum(-1, keepdim=True) + 1e-8)
    moment = share.unsqueeze(-2) @ w**2  # [B, H, 1, D]
    return -(w * pi.unsqueeze(-1)) * (1 / (1 + moment))


def causal(w: Tensor, temperature: Tensor, bias: Tensor | None = None) -> Tensor:
    """The published causal operator.  w: [B, H, N, D].  temperature: [H, 1].  bias: [H, N, 1]. As `full`."""
    squared = w**2
    score = squared / squared.cumsum(-2).clamp_min(1e-12)
    if bias is not None:
        score = score + bias  # once per feature, before the sum over features
    pi = torch.softmax(score.sum(-1) * temperature, dim=1)
    moment = (squared * pi.unsqueeze(-1)).cumsum(-2) / (pi.cumsum(-1) + 1e-8).unsqueeze(-1)
    return -(w * pi.unsqueeze(-1)) * (1 / (1 + moment))
