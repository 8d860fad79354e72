"""What the figures of idea.py show: tokens of known groups, their memberships, and how they are drawn."""

# N tokens, K = H groups (heads), P = D directions of each, C = K*P features

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tost.nn import CausalTSSA

ANGLES = [math.radians(angle) for angle in (15, 75, 135)]


def lines_in_the_plane(count: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [N, 2] near three lines through 0, the line of each [N], and the lines' directions [3, 2, 1]."""
    random = torch.Generator().manual_seed(3)
    U = torch.tensor([[math.cos(a), math.sin(a)] for a in ANGLES], dtype=torch.float64)
    normal = torch.stack([-U[:, 1], U[:, 0]], 1)
    label = torch.arange(3).repeat_interleave(count)
    along = (0.5 + torch.rand(3 * count, generator=random).double()) * (torch.arange(3 * count) % 2 * 2 - 1)
    across = 0.07 * torch.randn(3 * count, generator=random, dtype=torch.float64)
    return along[:, None] * U[label] + across[:, None] * normal[label], label, U.unsqueeze(-1)


def tokens_in_heads(count: int = 120) -> tuple[Tensor, Tensor, Tensor]:
    """w [1, N, K, P] of tokens whose group fills the first direction of its own head, groups [N], and U [K, C, P]."""
    random = torch.Generator().manual_seed(0)
    K, P = 3, 2
    U = torch.linalg.qr(torch.randn(K * P, K * P, generator=random, dtype=torch.float64))[0].unflatten(1, (K, P))
    label = torch.arange(K).repeat_interleave(count)
    w = 0.35 * torch.randn(K * count, K, P, generator=random, dtype=torch.float64)
    sign = torch.arange(K * count) % 2 * 2 - 1
    w[torch.arange(K * count), label, 0] += sign * (1.2 + 1.6 * torch.rand(K * count, generator=random).double())
    return w[None], label, U.movedim(1, 0)


def effective_heads(w: Tensor, decay: float) -> Tensor:
    """exp of the entropy of every token's memberships, [N]: 1 = one head has it, H = all share it."""
    B, N, H, D = w.shape
    layer = CausalTSSA(H * D, H, bias=False, max_positions=None, decay=None if decay == 1 else decay).double()
    with torch.no_grad():
        layer.in_proj.weight.copy_(torch.eye(H * D))
        layer.temperature.fill_(16.0)
        pi = layer.membership(w.flatten(2))[0]
    return (-(pi * pi.clamp_min(1e-30).log()).sum(-1)).exp()


def scatter(panel: Any, Z: Tensor, colours: list) -> None:
    panel.scatter(*Z.T.numpy(), c=colours, s=9, linewidths=0)
    panel.set_xlim(-2.25, 2.25), panel.set_ylim(-2.25, 2.25)
    panel.set_aspect("equal")
    panel.set_axis_off()


def ellipse(panel: Any, Z: Tensor, colour: str) -> None:
    """Where a Gaussian with the tokens' second moments falls to exp(-2)."""
    values, vectors = torch.linalg.eigh(Z.T @ Z / len(Z))
    turn = torch.linspace(0, 2 * math.pi, 100, dtype=Z.dtype)
    x, y = vectors @ (2 * values.sqrt()[:, None] * torch.stack([turn.cos(), turn.sin()]))
    panel.plot(x.numpy(), y.numpy(), color=colour, linewidth=1.4)
