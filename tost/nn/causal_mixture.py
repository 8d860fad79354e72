"""The causal layer beyond the paper: values of their own, group means, uncut covariance, a length-aware temperature."""

# B batch, N tokens, H heads, D features per head, C = H*D, P projections (w, then values, then the gate)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.causal import CausalTSSA
from tost.nn.linear import Linear
from tost.nn.order import token_positions
from tost.nn.readout import Readout
from tost.ops import MixtureState, causal_mixture


@dataclass(frozen=True)
class MixtureOptions:
    """What a CausalMixture has beyond CausalTSSA; docs/math.md, "Beyond the paper", has the equations.

    separate_values: the values are a projection of their own; memberships come from w alone.
    group_means: statistics around the group means.  full_covariance: all D x D of them instead of the diagonal.
    length_temperature: the temperature grows as a learned power of the tokens seen, 0 at first.
    output_gate, head_norm: of the Readout, which the other causal mixers have too.
    """

    separate_values: bool = False
    group_means: bool = False
    full_covariance: bool = False
    length_temperature: bool = False
    output_gate: bool = False
    head_norm: bool = False

    @property
    def any(self) -> bool:
        """Whether it differs from CausalTSSA at all."""
        return self != MixtureOptions()


class CausalMixture(CausalTSSA):
    """CausalTSSA with `options`; arguments, masks, packing and streaming as there, the state is a MixtureState.

    w, v, g = in_proj(x)      y = causal_mixture(w, v, t n^power)      out = out_proj(norm(y) * silu(g))
    """

    undecayed: ClassVar[tuple[str, ...]] = (*CausalTSSA.undecayed, "power")
    State = MixtureState  # type: ignore[assignment]

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        bias: bool = False,
        max_positions: int | None = None,
        decay: float | Sequence[float] | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        clamp_positions: bool = False,
        learn_decay: bool = False,
        options: MixtureOptions = MixtureOptions(),
    ) -> None:
        super().__init__(
            dim, num_heads, bias, max_positions, decay, attn_drop, proj_drop, None, clamp_positions, learn_decay
        )
        self.options = options
        self.in_proj = Linear(dim, (1 + options.separate_values + options.output_gate) * dim, bias=bias)
        self.power = nn.Parameter(torch.zeros(num_heads)) if options.length_temperature else None
        self.readout = Readout(num_heads, self.head_dim, options.output_gate, options.head_norm)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: MixtureState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, MixtureState]:
        parts, gate = self.readout.split(self.in_proj(x))
        bias, seen = self._clamped(x.shape[1], state)
        result = causal_mixture(
            parts[0],
            parts[-1],
            self._temperature(x, mask, cu_seqlens, state),
            centred=self.options.group_means,
            full=self.options.full_covariance,
            position_bias=bias,
            decay=self.survival(),
            mask=mask,
            cu_seqlens=cu_seqlens,
            state=seen,
            return_state=True,
        )
        y, new_state = result
        y = F.dropout(y, self.attn_drop, self.training)
        out = self.proj_drop(self.out_proj(self.readout(y, gate)))
        if not return_state:
            return out
        if state is not None and seen is not None and seen is not state:
            new_state = new_state._replace(length=state.length + (new_state.length - seen.length))
        return out, new_state

    def project(self, x: Tensor) -> Tensor:
        """[B, N, H, D], the values: what the operator compresses."""
        return self.readout.split(self.in_proj(x))[0][-1]

    def _scored(self, x: Tensor) -> Tensor:
        return self.readout.split(self.in_proj(x))[0][0]

    def _temperature(self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, state: Any) -> Tensor:
        """[H], or [B or 1, N, H] if it grows with the tokens seen."""
        if self.power is None:
            return self.temperature
        seen = 1 + token_positions(x, mask, cu_seqlens, None if state is None else state.length)
        return self.temperature * seen[..., None].to(self.power.dtype) ** self.power
