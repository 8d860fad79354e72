"""Causal token statistics with group means: the variance around them in place of the second moment around zero.

The published operator sees squares alone, so nothing signed passes from token to token. A mixture whose groups have
means keeps first moments too, and its step is taken from the mean (docs/math.md, "Group means").
"""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tost.ops import checks
from tost.ops.api import bias_by_token, length_after
from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.recurrence import recurrence_of
from tost.ops.reference import sequences
from tost.ops.scan import decayed_sum
from tost.ops.segments import no_autocast, zero_masked

BACKENDS = ("reference", "eager")


class MeansState(NamedTuple):
    """Everything a causal stream with group means remembers: H(3D + 1) sums and a count per sequence.

        energy a = sum_s w_s^2     first = sum_s Pi_s v_s     second = sum_s Pi_s v_s^2     mass P = sum_s Pi_s

    energy, first, second: [B, H, D].  mass: [B, H].  All float64.  length: [B] int64.
    """

    energy: Tensor
    first: Tensor
    second: Tensor
    mass: Tensor
    length: Tensor


def causal_tssa_means(
    w: Tensor,
    values: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = None,
    decay: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: MeansState | None = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, MeansState]:
    """Causal token statistics of `values` around their group means, O(N H D) time, O(H D) state.

        pi_t as in `causal_tssa`, from w       P_t = l P_{t-1} + pi_t       F_t = l F_{t-1} + pi_t v_t
        S_t = l S_{t-1} + pi_t v_t^2           mu = F_t / P_t               y_t = -pi_t (v_t - mu) / (1 + S_t / P_t - mu^2)

    w, values: [B, N, H, D].  The other arguments are those of `causal_tssa`, the state is a MeansState.
    backend: "reference", "eager" or None (eager).
    Returns y [B, N, H, D] in w's dtype, and with `return_state` also the state after the last token.
    Raises ValueError if shapes or dtypes disagree.
    """
    checks.check_call("causal_tssa_means", w, temperature, mask, cu_seqlens)
    checks.check_causal(w, position_bias, decay, cu_seqlens, None)
    if values.shape != w.shape or values.dtype != w.dtype:
        raise ValueError(
            f"causal_tssa_means expects values like w, {list(w.shape)} {w.dtype}, got {list(values.shape)} {values.dtype}"
        )
    if backend not in (None, *BACKENDS):
        raise ValueError(f"causal_tssa_means has the backends {', '.join(BACKENDS)}, got {backend!r}")
    S, (H, D) = w.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1, w.shape[2:]
    if state is not None and (state.first.shape != (S, H, D) or state.mass.shape != (S, H)):
        raise ValueError(
            f"causal_tssa_means expects a MeansState of {[S, H, D]}, got {list(state.first.shape)}; begin with None"
        )
    seen = None if state is None else state.length
    bias = None if position_bias is None else bias_by_token(position_bias, w, mask, cu_seqlens, seen)
    sums = (None,) * 4 if state is None else state[:4]
    run = _reference if backend == "reference" else _eager
    y, *ends = run(w, values, temperature, bias, decay, mask, cu_seqlens, *sums)
    return (y, MeansState(*ends, length_after(w, mask, cu_seqlens, seen))) if return_state else y


def _eager(
    w: Tensor,
    values: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    energy: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    mass: Tensor | None,
) -> tuple[Tensor, ...]:
    with no_autocast(w.device.type):
        x, v = zero_masked(w, mask), zero_masked(values, mask)
        t, decay = temperature.to(x.dtype), None if decay is None else decay.to(x.dtype)
        if decay is not None and mask is None and cu_seqlens is None:
            constant = decay  # the same for every token

            def total(z: Tensor, base: Tensor | None) -> tuple[Tensor, Tensor]:
                return decayed_sum(z, constant, base)
        else:
            total = recurrence_of(w.shape, decay, mask, cu_seqlens).forward
        p = x.square()
        a, energy = total(p, energy)
        score = (p / a.clamp_min(CAUSAL_FLOOR)).sum(-1)
        if bias is not None:
            score = score + w.shape[-1] * bias.to(x.dtype)
        pi = torch.softmax(t * score, -1)
        pi = (pi if mask is None else pi * mask.unsqueeze(-1)).unsqueeze(-1)  # [B, N, H, 1]
        D, weighted = w.shape[-1], pi * v
        base = None if first is None else torch.cat([first, second, mass.unsqueeze(-1)], -1)
        sums, end = total(torch.cat([weighted, weighted * v, pi], -1), base)
        Q = sums[..., 2 * D :] + MASS_EPS
        mean = sums[..., :D] / Q
        variance = (sums[..., D : 2 * D] / Q - mean.square()).clamp_min(0)
        y = -pi * (v - mean) / (1 + variance)
        return y.to(w.dtype), energy, end[..., :D], end[..., D : 2 * D], end[..., 2 * D]


def _reference(
    w: Tensor,
    values: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    *before: Tensor | None,
) -> tuple[Tensor, ...]:
    """The definition: float64, one token at a time."""
    x, v, t = w.double(), values.double(), temperature.double()
    B, N, H, D = w.shape
    keep = (x.new_ones(H) if decay is None else decay.double())[:, None]
    y = [[x.new_zeros(H, D) for _ in range(N)] for _ in range(B)]
    ends: list[list[Tensor]] = [[], [], [], []]
    for s, tokens in enumerate(sequences(x, mask, cu_seqlens)):
        a, F, S = (x.new_zeros(H, D) if part is None else part[s].double() for part in before[:3])
        P = x.new_zeros(H, 1) if before[3] is None else before[3][s].double()[:, None]
        for b, n in tokens:
            p = x[b, n] ** 2
            a = keep * a + p
            score = (p / a.clamp_min(CAUSAL_FLOOR)).sum(-1)
            if bias is not None:
                score = score + D * bias[b if bias.shape[0] > 1 else 0, n].double()
            pi = torch.softmax(t * score, dim=0)[:, None]
            P, F, S = keep * P + pi, keep * F + pi * v[b, n], keep * S + pi * v[b, n] ** 2
            mean = F / (P + MASS_EPS)
            variance = (S / (P + MASS_EPS) - mean**2).clamp_min(0)
            y[b][n] = -pi * (v[b, n] - mean) / (1 + variance)
        for end, value in zip(ends, (a, F, S, P[:, 0])):
            end.append(value)
    flat = [part for row in y for part in row]
    out = torch.stack(flat).reshape(w.shape) if flat else x.new_zeros(w.shape)
    shapes = [(len(ends[0]), H, D)] * 3 + [(len(ends[0]), H)]
    stacked = [torch.stack(end).reshape(shape) if end else x.new_zeros(shape) for end, shape in zip(ends, shapes)]
    return out.to(w.dtype), *stacked
