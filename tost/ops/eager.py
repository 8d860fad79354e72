"""Both operators in plain vectorised torch: any device, exportable, twice differentiable.

The backward passes are the closed forms of docs/math.md: besides w they need a few numbers per head and token, where
autograd would keep about six tensors of w's size.
"""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.ops.common import FULL_FLOOR, MASS_EPS
from tost.ops.eager_causal import causal_tssa
from tost.ops.segments import no_autocast, segments_of, zero_masked

__all__ = ["causal_tssa", "decline", "tssa"]


def decline(w: Tensor) -> str | None:
    """Why this backend cannot take `w`: never."""
    return None


def tssa(w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
    """Full token statistics; returns y, membership, energy, mass, moment (see tost.ops.api.tssa)."""
    if torch.is_grad_enabled() and (w.requires_grad or temperature.requires_grad):
        return _Full.apply(w, temperature, mask, cu_seqlens)
    return _forward(w, temperature, mask, cu_seqlens)


def _forward(w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
    x = zero_masked(w, mask)
    with no_autocast(w.device.type):
        membership, energy, mass, moment = _statistics(x, temperature, mask, cu_seqlens)
        rows = segments_of(x, cu_seqlens)
        gate = rows.spread(-1 / (1 + moment))
        y = rows.each(w, lambda k: (x[:, k] * membership[:, k, :, None] * gate).to(w.dtype))
    return y, membership, energy, mass, moment


def _statistics(x: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
    """Membership, energy, mass and moment of tokens x (already in the statistics' dtype, masked ones zero)."""
    rows = segments_of(x, cu_seqlens)
    energy = rows.weigh(None, x, x)
    score = rows.dot(x, x, 1 / energy.clamp_min(FULL_FLOOR))
    membership = torch.softmax(temperature.to(x.dtype) * score, -1)
    if mask is not None:
        membership = membership * mask.unsqueeze(-1)
    mass = rows.total(membership)
    moment = rows.weigh(membership, x, x) / (mass + MASS_EPS).unsqueeze(-1)
    return membership, energy, mass, moment


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(w, temperature, mask, cu_seqlens):
        return _forward(w, temperature, mask, cu_seqlens)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        w, temperature, mask, cu_seqlens, *statistics = ctx.saved_tensors
        x, g = zero_masked(w, mask), zero_masked(g, mask)
        with no_autocast(w.device.type):
            if torch.is_grad_enabled():  # a second derivative is wanted: the statistics must be functions of w again
                statistics = _statistics(x, temperature, mask, cu_seqlens)
            dw, dt = _backward(x, temperature.to(x.dtype), g, cu_seqlens, *statistics)
        return dw.to(w.dtype), dt.to(temperature.dtype), None, None


def _backward(
    x: Tensor, t: Tensor, g: Tensor, cu_seqlens: Tensor | None, pi: Tensor, energy: Tensor, mass: Tensor, m: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to w and the temperature; the letters are those of docs/math.md."""
    rows = segments_of(x, cu_seqlens)
    inverse = 1 / energy.clamp_min(FULL_FLOOR)
    q = 1 / (1 + m)
    A = q.square() * rows.weigh(pi, x, g) / (mass + MASS_EPS).unsqueeze(-1)
    B = (A * m).sum(-1)
    u = rows.dot(x, x, A) - rows.dot(x, g, q) - rows.spread(B)
    e = pi * (u - (pi * u).sum(-1, keepdim=True))
    f = t * e
    dt = (e * rows.dot(x, x, inverse)).sum((0, 1))
    # 1/c^2 would overflow float32 at the floor: divide twice
    E = torch.where(energy >= FULL_FLOOR, rows.weigh(f, x, x) * inverse * inverse, 0.0)
    A, inverse, E, q = (rows.spread(s) for s in (2 * A, 2 * inverse, 2 * E, q))

    def pull(k: slice) -> Tensor:
        pi_k, f_k = pi[:, k, :, None], f[:, k, :, None]
        return x[:, k] * (pi_k * A + f_k * inverse - E) - pi_k * q * g[:, k]

    return rows.each(x, pull), dt
