"""Causal token statistics of a richer mixture: values of their own, group means, uncut covariances.

The published operator sees squares alone, so nothing signed passes from token to token. A mixture whose groups have
means keeps first moments too, and its step is taken from the mean (docs/math.md, "Beyond the paper").
"""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones), M moments: D, or D*D uncut

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tost.ops import checks
from tost.ops.api import bias_by_token, length_after
from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.membership import posterior, running_sum
from tost.ops.reference import sequences
from tost.ops.segments import no_autocast, zero_masked

BACKENDS = ("reference", "eager")


class MixtureState(NamedTuple):
    """Everything a causal stream with values and group means remembers: H(2D + M + 1) sums and a count per sequence.

        energy a = sum_s w_s^2     first = sum_s Pi_s v_s     second = sum_s Pi_s v_s^2     mass P = sum_s Pi_s

    energy, first: [B, H, D].  second: [B, H, D], or [B, H, D, D] (sum_s Pi_s v_s v_s^T) of the full covariance.
    mass: [B, H].  All float64.  length: [B] int64.
    """

    energy: Tensor
    first: Tensor
    second: Tensor
    mass: Tensor
    length: Tensor


def causal_mixture(
    w: Tensor,
    values: Tensor,
    temperature: Tensor,
    *,
    centred: bool = True,
    full: bool = False,
    position_bias: Tensor | None = None,
    decay: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: MixtureState | None = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, MixtureState]:
    """Causal token statistics of `values` around their group means, O(N H D) time, O(H D) state.

        pi_t as in `causal_tssa`, from w       P_t = l P_{t-1} + pi_t       F_t = l F_{t-1} + pi_t v_t
        S_t = l S_{t-1} + pi_t v_t^2           mu = F_t / P_t
        y_t = -pi_t (v_t - mu) / (1 + S_t / P_t - mu^2)

    w, values: [B, N, H, D].  temperature: [H], or by token [B or 1, N, H].
    centred=False: mu = 0; with values = w this is `causal_tssa`.
    full=True: S_t = l S_{t-1} + pi_t v_t v_t^T, y_t = -pi_t (I + S_t / P_t - mu mu^T)^{-1} (v_t - mu): O(N H D^3) time.
    The other arguments are those of `causal_tssa`, the state is a MixtureState.
    backend: "reference", "eager" or None (eager).
    Returns y [B, N, H, D] in w's dtype, and with `return_state` also the state after the last token.
    Raises ValueError if shapes or dtypes disagree.
    """
    by_head = temperature if temperature.ndim == 1 else temperature.new_empty(temperature.shape[-1:])
    checks.check_call("causal_mixture", w, by_head, mask, cu_seqlens)
    if temperature.ndim != 1 and temperature.shape not in (w.shape[:3], (1, *w.shape[1:3])):
        raise ValueError(
            f"causal_mixture expects temperature [H] or [{w.shape[0]} or 1, {w.shape[1]}, {w.shape[2]}], got "
            f"{list(temperature.shape)}"
        )
    checks.check_causal(w, position_bias, decay, cu_seqlens, None)
    if values.shape != w.shape or values.dtype != w.dtype:
        raise ValueError(
            f"causal_mixture expects values like w, {list(w.shape)} {w.dtype}, got {list(values.shape)} {values.dtype}"
        )
    if backend not in (None, *BACKENDS):
        raise ValueError(f"causal_mixture has the backends {', '.join(BACKENDS)}, got {backend!r}")
    S, (H, D) = w.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1, w.shape[2:]
    second = (S, H, D, D) if full else (S, H, D)
    if state is not None and (state.second.shape != second or state.first.shape != (S, H, D)):
        raise ValueError(
            f"causal_mixture expects a MixtureState with second {list(second)}, got {list(state.second.shape)}; "
            "begin with state=None"
        )
    seen = None if state is None else state.length
    bias = None if position_bias is None else bias_by_token(position_bias, w, mask, cu_seqlens, seen)
    sums: Any = (None,) * 4 if state is None else state[:4]
    run = _reference if backend == "reference" else _eager
    y, energy, first, second_sum, mass = run(
        w, values, temperature, centred, full, bias, decay, mask, cu_seqlens, *sums
    )
    return (
        (y, MixtureState(energy, first, second_sum, mass, length_after(w, mask, cu_seqlens, seen)))
        if return_state
        else y
    )


def _eager(
    w: Tensor,
    values: Tensor,
    temperature: Tensor,
    centred: bool,
    full: bool,
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
        total = running_sum(w.shape, None if decay is None else decay.to(x.dtype), mask, cu_seqlens)
        pi, energy = posterior(x.square(), temperature, bias, mask, total, energy)
        pi = pi.unsqueeze(-1)  # [B, N, H, 1]
        D, weighted = w.shape[-1], pi * v
        product = (weighted.unsqueeze(-1) * v.unsqueeze(-2)).flatten(-2) if full else weighted * v
        base = None
        if first is not None and second is not None and mass is not None:
            base = torch.cat([first, second.flatten(2), mass.unsqueeze(-1)], -1)
        sums, end = total(torch.cat([weighted, product, pi], -1), base)
        Q = sums[..., -1:] + MASS_EPS
        mean = sums[..., :D] / Q if centred else torch.zeros_like(v)
        y = -pi * _step(v - mean, mean, sums[..., D:-1] / Q, full)
        ends = (energy, end[..., :D], end[..., D:-1].unflatten(-1, second_shape(D, full)), end[..., -1])
        return y.to(w.dtype), *ends


def second_shape(D: int, full: bool) -> tuple[int, ...]:
    """The sizes of a head's second moment."""
    return (D, D) if full else (D,)


def _step(delta: Tensor, mean: Tensor, second: Tensor, full: bool) -> Tensor:
    """delta over one plus the covariance: second [..., M] around the mean [..., D]."""
    if not full:
        return delta / (1 + (second - mean.square()).clamp_min(0))
    D = delta.shape[-1]
    covariance = second.unflatten(-1, (D, D)) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    return torch.linalg.solve(torch.eye(D, dtype=delta.dtype, device=delta.device) + covariance, delta)


def _reference(
    w: Tensor,
    values: Tensor,
    temperature: Tensor,
    centred: bool,
    full: bool,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    *before: Tensor | None,
) -> tuple[Tensor, ...]:
    """The definition: float64, one token at a time."""
    x, v = w.double(), values.double()
    B, N, H, D = w.shape
    keep = (x.new_ones(H) if decay is None else decay.double())[:, None]
    t = temperature.double().expand(B, N, H)
    y = [[x.new_zeros(H, D) for _ in range(N)] for _ in range(B)]
    ends: list[list[Tensor]] = [[], [], [], []]
    for s, tokens in enumerate(sequences(x, mask, cu_seqlens)):
        a, F = (x.new_zeros(H, D) if part is None else part[s].double() for part in before[:2])
        S = x.new_zeros(H, D * D if full else D) if before[2] is None else before[2][s].double().flatten(1)
        P = x.new_zeros(H, 1) if before[3] is None else before[3][s].double()[:, None]
        for b, n in tokens:
            p, u = x[b, n] ** 2, v[b, n]
            a = keep * a + p
            score = (p / a.clamp_min(CAUSAL_FLOOR)).sum(-1)
            if bias is not None:
                score = score + D * bias[b if bias.shape[0] > 1 else 0, n].double()
            pi = torch.softmax(t[b, n] * score, dim=0)[:, None]
            square = (u[:, :, None] * u[:, None]).flatten(1) if full else u**2
            P, F, S = keep * P + pi, keep * F + pi * u, keep * S + pi * square
            mean = F / (P + MASS_EPS) if centred else torch.zeros_like(u)
            y[b][n] = -pi * _step(u - mean, mean, S / (P + MASS_EPS), full)
        for end, value in zip(ends, (a, F, S.unflatten(-1, second_shape(D, full)), P[:, 0])):
            end.append(value)
    flat = [part for row in y for part in row]
    out = torch.stack(flat).reshape(w.shape) if flat else x.new_zeros(w.shape)
    count = len(ends[0])
    shapes = [(count, H, D), (count, H, D), (count, H, *second_shape(D, full)), (count, H)]
    stacked = [torch.stack(end) if end else x.new_zeros(shape) for end, shape in zip(ends, shapes)]
    return out.to(w.dtype), *stacked
