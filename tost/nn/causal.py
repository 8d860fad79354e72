"""The causal attention layer: the statistics of a token are those of the tokens before it and itself."""

# B batch, N tokens, H heads, D features per head, C = H*D, L positions

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.checks import check_tokens, head_dim
from tost.nn.linear import Linear
from tost.nn.split import Split, refuse
from tost.ops import TSSAState, causal_membership, causal_tssa


class CausalTSSA(nn.Module):
    """Causal token-statistics self-attention (arXiv 2412.17810, appendix B): O(N) time, constant state.

    x: [B, N, C] -> [B, N, C], or (that, TSSAState) with return_state=True. Passing the state of one call to the next
    continues the sequence: any split gives what one call gives.  mask, cu_seqlens: as in TSSA.
    max_positions L: a learned bias [H, L] per head and position, zero at first (None: no bias, any length).
    clamp_positions: tokens beyond position L take the bias of the last (False: ValueError).
    decay: in (0, 1], one number or one per head, by which all statistics are multiplied at every token (None: 1).
    learn_decay: learn it, from `decay` (below 1): the parameter log_half_life [H] is log(log(1/2) / log(decay)).
    `attn_drop` zeroes entries of 1 / (1 + m), as published one draw per token. `backend` is tost.ops.causal_tssa's.
    Raises ValueError for sizes that disagree, a decay outside (0, 1], or positions beyond L.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("temperature", "position_bias", "log_half_life")
    State = TSSAState
    split_over: Split | None = None  # other processes, while they hold other stretches of the sequence
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
        clamp_positions: bool = False,
        learn_decay: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim("CausalTSSA", dim, num_heads)
        self.attn_drop = attn_drop
        self.backend = backend
        self.in_proj = Linear(dim, dim, bias=bias)
        self.temperature = nn.Parameter(torch.ones(num_heads))
        self.position_bias = None if max_positions is None else nn.Parameter(torch.zeros(num_heads, max_positions))
        self.clamp_positions = clamp_positions
        fixed = decay_per_head(decay, num_heads)
        self.log_half_life = nn.Parameter(log_half_life(fixed)) if learn_decay else None
        constant = None if learn_decay or fixed is None else torch.tensor(fixed)
        self.register_buffer("decay", constant, persistent=False)  # sharding (FSDP2) takes parameters alone
        self.out_proj = Linear(dim, dim, bias=bias)
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
        w = self.project(x)
        bias, seen = self._clamped(x.shape[1], state)
        options: dict[str, Any] = {
            "decay": self.survival(),
            "mask": mask,
            "cu_seqlens": cu_seqlens,
            "state": seen,
            "backend": self.backend,
        }
        if self.split_over is None:
            y, new_state = causal_tssa(w, self.temperature, position_bias=bias, return_state=True, **options)
        else:
            positions: dict[str, Any] = {"position_bias": self.position_bias, "clamp_positions": self.clamp_positions}
            y, new_state = self.split_over.causal_tssa(w, self.temperature, **positions, **options)
        y = F.dropout(y, self.attn_drop, self.training)  # y is linear in 1 / (1 + m)
        out = self.proj_drop(self.out_proj(y.flatten(-2)))
        if not return_state:
            return out
        if state is not None and seen is not None and seen is not state:
            new_state = new_state._replace(length=state.length + (new_state.length - seen.length))
        return out, new_state

    def project(self, x: Tensor) -> Tensor:
        """w [B, N, H, D], the tokens in each head's subspace: what the operator compresses."""
        return self.in_proj(x).unflatten(-1, (self.num_heads, self.head_dim))

    def membership(
        self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, state: Any = None
    ) -> Tensor:
        """pi [B, N, H], how the operator shares each token among the heads; arguments of forward, 0 if masked."""
        if self.split_over is not None:
            refuse("memberships to look at")
        bias, seen = self._clamped(x.shape[1], state)
        return causal_membership(
            self._scored(x),
            self._temperature(x, mask, cu_seqlens, state),
            position_bias=bias,
            decay=self.survival(),
            mask=mask,
            cu_seqlens=cu_seqlens,
            state=seen,
        )

    def _scored(self, x: Tensor) -> Tensor:
        """What the memberships are read from."""
        return self.project(x)

    def _temperature(self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, state: Any) -> Tensor:
        """[H], or by token [B or 1, N, H]."""
        return self.temperature

    def survival(self) -> Tensor | None:
        """[H] float32 in (0, 1], what of the statistics survives a token; None if nothing is forgotten."""
        if self.log_half_life is None:
            return self.decay
        return torch.exp2(-torch.exp(-self.log_half_life.float()))

    def _clamped(self, N: int, state: Any) -> tuple[Tensor | None, Any]:
        """The bias and state of a call on N tokens in which those beyond the table take its last column."""
        bias: Tensor | None = self.position_bias
        if bias is None or not self.clamp_positions:
            return bias, state
        L = bias.shape[1]
        more = max(N - L, 0) if state is None else N
        bias = torch.cat([bias, bias[:, -1:].expand(-1, more)], dim=1)
        return bias, None if state is None else state._replace(length=state.length.clamp(max=L))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, attn_drop={self.attn_drop}, backend={self.backend}"


def decay_per_head(decay: float | Sequence[float] | None, num_heads: int) -> list[float] | None:
    """`decay` for every head, checked; numbers, so that a layer can be built without its data (on the meta device)."""
    if decay is None:
        return None
    values = [float(decay)] * num_heads if isinstance(decay, (int, float)) else [float(value) for value in decay]
    if len(values) != num_heads or not all(0 < value <= 1 for value in values):
        raise ValueError(
            f"CausalTSSA expects decay in (0, 1], one number or one for each of {num_heads} heads, got {decay}"
        )
    return values


def log_half_life(decay: Sequence[float] | None) -> Tensor:
    """log of the half-life in tokens of every head [H], from its decay."""
    if decay is None or max(decay) == 1:
        raise ValueError("CausalTSSA learns a decay from initial values below 1; give decay, such as [0.9, 0.99]")
    return torch.tensor([math.log(math.log(0.5) / math.log(value)) for value in decay])
