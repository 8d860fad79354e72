"""The int8 operators in plain torch, any device: the definition, which the kernels equal to the last bit."""

# S sequences, R rows = tokens of all of them, n tokens of one, H heads, D features per head

from __future__ import annotations

import torch
from torch import Tensor

from tost.ops.fixed_point import (
    ENERGY,
    FINEST,
    LOGIT,
    MEAN,
    OUTPUT,
    RECIPROCAL,
    SCORE,
    SHARE,
    TEMPERATURE,
    bit_length,
    decayed,
    exp_negative,
    reciprocal,
    shift_rounded,
)


def full(w: Tensor, temperature: Tensor, real: Tensor | None, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """(values [R, H, D] int8, scale [R]) of w [R, H, D] float32.  temperature: [H].  real: [R].  bounds: [S + 1]."""
    values, scale = torch.zeros_like(w, dtype=torch.int8), torch.ones(len(w), device=w.device)
    for rows in rows_of(real, bounds, w):
        if len(rows):
            values[rows], scale[rows] = full_sequence(w[rows], temperature)
    return values, scale


def full_sequence(w: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """(values [n, H, D], scale [n]) of one sequence w [n, H, D]."""
    exponent = exponents(w).amax(0)
    q = quantize(w, exponent)
    square = q * q
    share = memberships(scores(square, square.sum(0) << ENERGY), temperature)
    moment, mass = (share[..., None] * square).sum(0), share.sum(0)
    gate, common = gates(mean(moment, mass), exponent)
    return requantize(share[..., None] * q * gate, common.expand(len(w)))


def causal(
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    survival: Tensor | None,
    real: Tensor | None,
    bounds: Tensor,
    exponent: Tensor,
    energy: Tensor,
    moment: Tensor,
    mass: Tensor,
) -> tuple[Tensor, Tensor]:
    """(values, scale) as in `full`; the state's exponent, mass [S, H], energy and moment [S, H, D] go on in place.

    bias: [R, H], added to the scores.  survival: [H].
    """
    values, scale = torch.zeros_like(w, dtype=torch.int8), torch.ones(len(w), device=w.device)
    for s, rows in enumerate(rows_of(real, bounds, w)):
        e, a, M, P = exponent[s], energy[s], moment[s], mass[s]
        for r in rows.tolist():
            if survival is not None:
                a, M, P = decayed(a, survival[:, None]), decayed(M, survival[:, None]), decayed(P, survival)
            larger = torch.maximum(e, exponents(w[r]))
            coarser, e = 2 * (larger - e)[:, None], larger
            q = quantize(w[r], e)
            a = shift_rounded(a, coarser) + (q * q << ENERGY)
            score = scores(q * q, a)
            share = memberships(score if bias is None else score + bias[r], temperature)
            M = shift_rounded(M, coarser) + share[:, None] * q * q
            P = P + share
            gate, common = gates(mean(M, P), e)
            value, step = requantize((share[:, None] * q * gate)[None], common[None])
            values[r], scale[r] = value[0], step[0]
        exponent[s], energy[s], moment[s], mass[s] = e, a, M, P
    return values, scale


def rows_of(real: Tensor | None, bounds: Tensor, w: Tensor) -> list[Tensor]:
    """The rows of each sequence that are tokens."""
    rows = torch.arange(len(w), device=w.device)
    parts = [rows[start:stop] for start, stop in zip(bounds.tolist(), bounds.tolist()[1:])]
    return parts if real is None else [part[real[part]] for part in parts]


def exponents(w: Tensor) -> Tensor:
    """[..., H] e of each head of w [..., H, D]: 64 <= |w| / 2^e < 128 for the largest |w|, FINEST at least."""
    bits = (w.view(torch.int32) & 0x7FFFFFFF).amax(-1).long()
    return ((bits >> 23) - 133).clamp(min=FINEST)


def quantize(w: Tensor, exponent: Tensor) -> Tensor:
    """q [..., H, D] int64 in -127..127: w / 2^e rounded to even."""
    return torch.ldexp(w, -exponent[..., None]).round().clamp(-127, 127).long()


def scores(square: Tensor, energy: Tensor) -> Tensor:
    """[..., H] sum_d q^2 / a with SCORE fractional bits, every term rounded down."""
    g, k = reciprocal(energy.clamp(min=1))
    return ((square * g) >> (k + RECIPROCAL - SCORE - ENERGY).clamp(min=0)).sum(-1)


def memberships(score: Tensor, temperature: Tensor) -> Tensor:
    """[..., H] Pi with SHARE fractional bits, the softmax over heads of t score."""
    down = SCORE + TEMPERATURE - LOGIT
    logits = (score * temperature + (1 << (down - 1))) >> down
    power = exp_negative(logits.amax(-1, keepdim=True) - logits)
    g, k = reciprocal(power.sum(-1, keepdim=True))
    return shift_rounded(power * g, k + RECIPROCAL - SHARE)


def mean(moment: Tensor, mass: Tensor) -> Tensor:
    """[H, D] moment / mass, that is m / 4^e, with MEAN fractional bits, rounded down; 0 where nobody is."""
    g, k = reciprocal(mass.clamp(min=1)[..., None])
    kept = k.clamp(max=20)  # of the mass's bits, so that the product fits
    return ((moment >> (k - kept)) * g) >> (kept + RECIPROCAL - MEAN)


def gates(m: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """(G [H, D], c) with 2^e / (1 + 4^e m) = G 2^(c - 14), G <= 2^30: the largest of a token decides on c."""
    double = 2 * exponent[:, None]
    inside = 2**MEAN + torch.where(double > 0, m << double.clamp(min=0), m >> (-double).clamp(0, 62))
    g, k = reciprocal(inside)
    place = exponent[:, None] - k
    common = place.amax()
    return (g << 6) >> (common - place).clamp(max=62), common


def requantize(v: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
    """(values [n, H, D] int8, scale [n]) of -v 2^(c - OUTPUT), v [n, H, D] int64, c [n]: halves away from zero."""
    top = v.abs().flatten(1).amax(1)
    down = (bit_length(top) - 7).clamp(min=0)
    size = shift_rounded(v.abs(), down[:, None, None]).clamp(max=127)
    scale = torch.where(top > 0, 2.0 ** (down + common - OUTPUT).double(), 1.0)
    return (-v.sign() * size).to(torch.int8), scale.float()
