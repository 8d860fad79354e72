"""How a causal operator shares each token among the heads: the posterior of the tokens before it and itself."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tost.ops.api import bias_by_token
from tost.ops.common import CAUSAL_FLOOR
from tost.ops.recurrence import recurrence_of
from tost.ops.scan import decayed_sum
from tost.ops.segments import no_autocast, zero_masked

Running = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def causal_membership(
    w: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = None,
    decay: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: Any = None,
) -> Tensor:
    """pi of `causal_tssa` and `causal_mixture`, which keep them to themselves; arguments as there.

        a_t = l a_{t-1} + w_t^2       pi_t = softmax_h(temperature_h * sum_d (w_t^2 / max(a_t, 1e-12) + b_ht))

    w: [B, N, H, D].  temperature: [H], or by token [B or 1, N, H].  state: TSSAState or MixtureState to go on from.
    Returns [B, N, H] in float32 or wider; 0 for masked tokens.
    """
    bias = None
    if position_bias is not None:
        bias = bias_by_token(position_bias, w, mask, cu_seqlens, None if state is None else state.length)
    with no_autocast(w.device.type):
        x = zero_masked(w, mask)
        decay = None if decay is None else decay.to(x.dtype)
        total = running_sum(w.shape, decay, mask, cu_seqlens)
        return posterior(x.square(), temperature, bias, mask, total, None if state is None else state.energy)[0]


def posterior(
    p: Tensor, temperature: Tensor, bias: Tensor | None, mask: Tensor | None, total: Running, energy: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(pi [B, N, H], the energy after the last token) of squares p [B, N, H, D] and a bias by token [B or 1, N, H]."""
    a, energy = total(p, energy)
    score = (p / a.clamp_min(CAUSAL_FLOOR)).sum(-1)
    if bias is not None:  # the published bias is added to each of the D features before their sum
        score = score + p.shape[-1] * bias.to(p.dtype)
    pi = torch.softmax(temperature.to(p.dtype) * score, -1)
    return (pi if mask is None else pi * mask.unsqueeze(-1)), energy


def running_sum(shape: torch.Size, decay: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor | None) -> Running:
    """The running sum over tokens of every sequence, of (x [B, N, H, ...], its value before them)."""
    if decay is not None and mask is None and cu_seqlens is None:
        return lambda x, base: decayed_sum(x, decay, base)  # the same decay at every token
    return recurrence_of(shape, decay, mask, cu_seqlens).forward
