"""The causal operator in plain vectorised torch (see eager.py)."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.scan import Recurrence
from tost.ops.segments import zero_masked


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
    """Causal token statistics; returns y and the outgoing energy, moment, mass (see tost.ops.api.causal_tssa)."""
    inputs = (w, temperature, bias, decay, mask, cu_seqlens, energy, moment, mass)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in inputs):
        return _Causal.apply(*inputs)
    return _forward(*inputs)


class _Pass:
    """One forward pass with everything the backward needs; recomputed there, so that nothing of it is stored."""

    def __init__(self, w, temperature, bias, decay, mask, cu_seqlens, energy, moment, mass) -> None:
        self.x = x = zero_masked(w, mask)
        self.t = temperature.to(x.dtype)
        self.rule = Recurrence(w.shape, None if decay is None else decay.to(x.dtype), mask, cu_seqlens)
        self.states = (energy, moment, None if mass is None else mass.unsqueeze(-1))
        p = x.square()
        self.a, self.energy = self.rule.forward(p, energy)
        self.c = self.a.clamp_min(CAUSAL_FLOOR)
        self.score = (p / self.c).sum(-1)
        if bias is not None:  # the published bias is added to each of the D features before their sum
            self.score = self.score + w.shape[-1] * bias.to(x.dtype)
        self.pi = torch.softmax(self.t * self.score, -1)
        if mask is not None:
            self.pi = self.pi * mask.unsqueeze(-1)
        self.S, self.moment = self.rule.forward(self.pi.unsqueeze(-1) * p, moment)
        self.P, self.mass = self.rule.forward(self.pi.unsqueeze(-1), self.states[2])
        self.Q = self.P + MASS_EPS  # [B, N, H, 1]


def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w = inputs[0]
    with torch.autocast(w.device.type, enabled=False):
        run = _Pass(*inputs)
        y = -(run.pi.unsqueeze(-1) * run.x) / (1 + run.S / run.Q)
    return y.to(w.dtype), run.energy, run.moment, run.mass.squeeze(-1)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_energy: Tensor, g_moment: Tensor, g_mass: Tensor) -> tuple:  # type: ignore[override]
        inputs = ctx.saved_tensors
        w, _, _, _, mask, *_ = inputs
        with torch.autocast(w.device.type, enabled=False):
            grads = _backward(_Pass(*inputs), zero_masked(g, mask), g_energy, g_moment, g_mass.unsqueeze(-1))
        shaped = [_like(grad, part) for grad, part in zip(grads, (*inputs[:4], *inputs[6:]))]
        return (*shaped[:4], None, None, *shaped[4:])


def _backward(run: _Pass, g: Tensor, g_energy: Tensor, g_moment: Tensor, g_mass: Tensor) -> tuple[Tensor, ...]:
    """Gradients to w, temperature, bias, decay, energy, moment, mass; the letters are those of docs/math.md."""
    x, pi, a, c, rule = run.x, run.pi.unsqueeze(-1), run.a, run.c, run.rule
    p = x.square()
    m = run.S / run.Q
    q = 1 / (1 + m)
    M = q.square() * pi * x * g / run.Q
    A, _, d_moment = rule.reverse(M, g_moment)
    B, _, d_mass = rule.reverse((M * m).sum(-1, keepdim=True), -g_mass)
    u = (A * p - q * x * g).sum(-1) - B.squeeze(-1)
    e = run.pi * (u - (run.pi * u).sum(-1, keepdim=True))
    f = (run.t * e).unsqueeze(-1)
    live = a >= CAUSAL_FLOOR
    E, E_after, d_energy = rule.reverse(torch.where(live, f * (p / c) / c, 0.0), -g_energy)
    before = [rule.previous(h, state) for h, state in zip((a, run.S, run.P), run.states)]
    kept = before[0] if rule.gate is None else rule.gate.unsqueeze(-1) * before[0]
    # f / c - E without its cancellation: the token's own share is f (c - p) / c^2, and c - p is the kept energy
    pull = pi * A + f / c * torch.where(live, kept / c, 1.0) - E_after
    dw = 2 * x * pull - pi * q * g
    d_decay = (A * before[1] - E * before[0]).sum(-1) - (B * before[2]).squeeze(-1)
    return dw, e * run.score, x.shape[-1] * f.squeeze(-1), _real(d_decay, rule), -d_energy, d_moment, -d_mass.squeeze(-1)


def _real(grad: Tensor, rule: Recurrence) -> Tensor:
    """Masked tokens do not decay the state."""
    return grad if rule.mask is None else grad * rule.mask.unsqueeze(-1)


def _like(grad: Tensor, part: Tensor | None) -> Tensor | None:
    """The gradient of a broadcast input: summed to its shape, in its dtype."""
    if part is None:
        return None
    return grad.sum_to_size(part.shape).to(part.dtype)
