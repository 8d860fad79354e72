"""What a causal mixer's heads say before they are projected back: as they are, normalised, gated."""

# B batch, N tokens, H heads, D features per head, C = H*D, P projections of C features

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import head_dim
from tost.nn.linear import Linear


class Readout(nn.Module):
    """norm(y) * silu(g), either of them optional, from heads y [B, N, H, D] to features [B, N, C].

    head_norm: RMSNorm over each head's D features, with weights [H, D], as retention has it (arXiv 2307.08621).
    output_gate: g is one more projection of the input, the last of in_proj's.
    """

    undecayed = ("head_weight",)

    def __init__(self, num_heads: int, head_dim: int, output_gate: bool = False, head_norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.output_gate = num_heads, head_dim, output_gate
        self.head_weight = nn.Parameter(torch.ones(num_heads, head_dim)) if head_norm else None

    def split(self, projected: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """in_proj's output [B, N, P C] as the mixer's own projections [B, N, H, D], and the gate [B, N, C]."""
        parts = list(projected.unflatten(-1, (-1, self.num_heads, self.head_dim)).unbind(2))
        gate = parts.pop().flatten(-2) if self.output_gate else None
        return parts, gate

    def forward(self, y: Tensor, gate: Tensor | None) -> Tensor:
        if self.head_weight is not None:
            y = F.rms_norm(y, (self.head_dim,), eps=1e-5) * self.head_weight.to(y.dtype)
        y = y.flatten(-2)
        return y if gate is None else y * F.silu(gate)


class ReadoutMixer(nn.Module):
    """What the causal baselines share: in_proj to `projections` of C features and a gate, a Readout, out_proj.

    Raises ValueError if num_heads doesn't divide dim.
    """

    projections = 1

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        output_gate: bool = False,
        head_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim(type(self).__name__, dim, num_heads)
        self.attn_drop = attn_drop
        self.in_proj = Linear(dim, (self.projections + output_gate) * dim, bias=bias)
        self.readout = Readout(num_heads, self.head_dim, output_gate, head_norm)
        self.out_proj = Linear(dim, dim, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)
