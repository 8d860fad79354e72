"""The definition of both operators: float64, one token at a time, nothing clever; all else is compared with it."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import torch
from torch import Tensor

from tost.ops.common import CAUSAL_FLOOR, FULL_FLOOR, MASS_EPS


def decline(w: Tensor) -> str | None:
    """Why this backend cannot take `w`: never."""
    return None


def tssa(w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
    """Full token statistics (PAPER section 3.2), by loops.

        a = max(sum_n w_n^2, 1e-24)                pi_n = softmax_h(temperature_h * sum_d w_n^2 / a)
        m = sum_n pi_n w_n^2 / (sum_n pi_n + 1e-8)    y_n = -pi_n * w_n / (1 + m)

    Returns y, membership, energy, mass, moment.
    """
    x, t = w.double(), temperature.double()
    H, D = w.shape[2:]
    y = [[x.new_zeros(H, D) for _ in range(x.shape[1])] for _ in range(x.shape[0])]
    membership = [[x.new_zeros(H) for _ in range(x.shape[1])] for _ in range(x.shape[0])]
    energies, masses, moments = [], [], []
    for tokens in sequences(x, mask, cu_seqlens):
        energy = x.new_zeros(H, D)
        for b, n in tokens:
            energy = energy + x[b, n] ** 2
        mass, weighted = x.new_zeros(H), x.new_zeros(H, D)
        for b, n in tokens:
            pi = torch.softmax(t * (x[b, n] ** 2 / energy.clamp_min(FULL_FLOOR)).sum(-1), dim=0)
            membership[b][n] = pi
            mass = mass + pi
            weighted = weighted + pi[:, None] * x[b, n] ** 2
        moment = weighted / (mass + MASS_EPS)[:, None]
        for b, n in tokens:
            y[b][n] = -membership[b][n][:, None] * x[b, n] / (1 + moment)
        energies.append(energy)
        masses.append(mass)
        moments.append(moment)
    S = len(energies)
    return (
        _stack(y, w.shape, x).to(w.dtype),
        _stack(membership, w.shape[:3], x).detach(),
        _stack(energies, (S, H, D), x).detach(),
        _stack(masses, (S, H), x).detach(),
        _stack(moments, (S, H, D), x).detach(),
    )


def causal_tssa(
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    energy: Tensor | None,
    moment: Tensor | None,
    mass: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Causal token statistics (PAPER appendix B), by loops; earlier memberships stay as they were.

        a_t = l a_{t-1} + w_t^2       pi_t = softmax_h(temperature_h * sum_d (w_t^2 / max(a_t, 1e-12) + b_t))
        P_t = l P_{t-1} + pi_t        S_t  = l S_{t-1} + pi_t w_t^2      y_t = -pi_t * w_t / (1 + S_t / (P_t + 1e-8))

    bias b: [B or 1, N, H] by token.  decay l: [H].  Returns y and the outgoing energy a, moment S, mass P.
    """
    x, t = w.double(), temperature.double()
    H, D = w.shape[2:]
    keep = x.new_ones(H) if decay is None else decay.double()
    y = [[x.new_zeros(H, D) for _ in range(x.shape[1])] for _ in range(x.shape[0])]
    ends: list[list[Tensor]] = [[], [], []]
    for s, tokens in enumerate(sequences(x, mask, cu_seqlens)):
        a = x.new_zeros(H, D) if energy is None else energy[s].double()
        S = x.new_zeros(H, D) if moment is None else moment[s].double()
        P = x.new_zeros(H) if mass is None else mass[s].double()
        for b, n in tokens:
            p = x[b, n] ** 2
            a = keep[:, None] * a + p
            score = (p / a.clamp_min(CAUSAL_FLOOR)).sum(-1)
            if bias is not None:  # the published bias is added to each of the D features before their sum
                score = score + D * bias[b if bias.shape[0] > 1 else 0, n].double()
            pi = torch.softmax(t * score, dim=0)
            P = keep * P + pi
            S = keep[:, None] * S + pi[:, None] * p
            y[b][n] = -pi[:, None] * x[b, n] / (1 + S / (P + MASS_EPS)[:, None])
        for end, value in zip(ends, (a, S, P)):
            end.append(value)
    count = len(ends[0])
    return (
        _stack(y, w.shape, x).to(w.dtype),
        _stack(ends[0], (count, H, D), x),
        _stack(ends[1], (count, H, D), x),
        _stack(ends[2], (count, H), x),
    )


def sequences(x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> list[list[tuple[int, int]]]:
    """The real tokens of every sequence as (batch row, token) pairs, in order."""
    B, N = x.shape[:2]
    if cu_seqlens is None:
        rows = [[(b, n) for n in range(N)] for b in range(B)]
    else:
        bounds = cu_seqlens.tolist()
        rows = [[(0, n) for n in range(start, end)] for start, end in zip(bounds, bounds[1:])]
    if mask is None:
        return rows
    return [[(b, n) for b, n in row if bool(mask[b, n])] for row in rows]


def _stack(parts: list, shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    flat = [part for row in parts for part in row] if parts and isinstance(parts[0], list) else parts
    return torch.stack(flat).reshape(shape) if flat else like.new_zeros(shape)
