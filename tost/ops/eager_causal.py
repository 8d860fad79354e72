"""The causal operator in plain vectorised torch (see eager.py).

On a CPU the tokens are taken in blocks whose temporaries stay in the cache: a block is a call with a state.
"""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones), K blocks

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.recurrence import recurrence_of
from tost.ops.scan import CHUNK
from tost.ops.segments import no_autocast, token_blocks, zero_masked


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
) -> tuple[Tensor, ...]:
    """Causal token statistics; returns y and the outgoing energy, moment, mass (see tost.ops.api.causal_tssa)."""
    inputs = (w, temperature, bias, decay, mask, cu_seqlens, energy, moment, mass)
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in inputs):
        return _Causal.apply(*inputs)[:4]
    return _forward(*inputs)[:4]


class _Pass:
    """One forward pass with everything the backward needs; recomputed there, so that nothing of it is stored."""

    def __init__(self, w, temperature, bias, decay, mask, cu_seqlens, energy, moment, mass) -> None:
        self.x, self.mask = zero_masked(w, mask), mask
        x = self.x
        self.t = temperature.to(x.dtype)
        self.rule = recurrence_of(w.shape, None if decay is None else decay.to(x.dtype), mask, cu_seqlens)
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


def _blocks(w: Tensor, cu_seqlens: Tensor | None) -> list[slice]:
    return token_blocks(w, CHUNK) if cu_seqlens is None else [slice(0, w.shape[1])]


def _block_inputs(inputs: tuple, block: slice, state: Any) -> tuple:
    w, temperature, bias, decay, mask, cu_seqlens = inputs[:6]
    cut = [None if part is None else part[:, block] for part in (w, bias, mask)]
    return cut[0], temperature, cut[1], decay, cut[2], cu_seqlens, *state


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    """y, energy, moment, mass, and the states between blocks, one [B, H, 2D + 1] each."""
    w, state = inputs[0], list(inputs[6:])
    blocks = _blocks(w, inputs[5])
    if len(blocks) == 1:
        y, *state = _one_block(*inputs)
        return y.to(w.dtype), *state, y.new_zeros(0)
    y, between = torch.empty_like(w, memory_format=torch.contiguous_format), []
    for block in blocks:
        y[:, block], *state = _one_block(*_block_inputs(inputs, block, state))
        between.append(torch.cat([state[0], state[1], state[2].unsqueeze(-1)], -1))
    return y, *state, torch.stack(between[:-1])


def _one_block(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with no_autocast(inputs[0].device.type):
        run = _Pass(*inputs)
        y = -(run.pi.unsqueeze(-1) * run.x) / (1 + run.S / run.Q)
    return y, run.energy, run.moment, run.mass.squeeze(-1)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(output[4])
        ctx.save_for_backward(*inputs, output[4])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *g_state: Tensor) -> tuple:
        *inputs, between = ctx.saved_tensors
        w, D = inputs[0], inputs[0].shape[-1]
        # for a second derivative the states between blocks must be functions of w again: one block
        blocks = [slice(0, w.shape[1])] if torch.is_grad_enabled() or not between.numel() else _blocks(w, inputs[5])
        parts: list[list[Tensor | None]] = []
        cotangent: tuple[Tensor, ...] = g_state[:3]
        for k in reversed(range(len(blocks))):
            state = (
                inputs[6:]
                if k == 0
                else (between[k - 1, ..., :D], between[k - 1, ..., D : 2 * D], between[k - 1, ..., -1])
            )
            here = _block_inputs(tuple(inputs), blocks[k], state)
            with no_autocast(w.device.type):
                grads = _backward(_Pass(*here), zero_masked(g[:, blocks[k]], here[4]), *cotangent)
            cotangent = grads[4:]
            parts.append([_like(grad, part) for grad, part in zip(grads, here[:4])])
        dw, dt, d_bias, d_decay = (_join(column, kind) for column, kind in zip(zip(*reversed(parts)), "cscs"))
        d_state = [_like(grad, part) for grad, part in zip(cotangent, inputs[6:])]
        return dw, dt, d_bias, d_decay, None, None, *d_state


def _join(parts: tuple, how: str) -> Tensor | None:
    """Gradients of the blocks: side by side for inputs by token ("c"), summed for the others ("s")."""
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    return sum(parts[1:], parts[0]) if how == "s" else torch.cat(parts, 1)


def _backward(run: _Pass, g: Tensor, g_energy: Tensor, g_moment: Tensor, g_mass: Tensor) -> tuple:
    """Gradients to w, temperature, bias, decay, energy, moment, mass; the letters are those of docs/math.md."""
    g_mass = g_mass.unsqueeze(-1)
    x, pi, a, c, rule = run.x, run.pi.unsqueeze(-1), run.a, run.c, run.rule
    p = x.square()
    m = run.S / run.Q
    q = 1 / (1 + m)
    M = q.square() * pi * x * g / run.Q
    A, d_moment = rule.reverse(M, g_moment)
    B, d_mass = rule.reverse((M * m).sum(-1, keepdim=True), -g_mass)
    u = (A * p - q * x * g).sum(-1) - B.squeeze(-1)
    e = run.pi * (u - (run.pi * u).sum(-1, keepdim=True))
    f = (run.t * e).unsqueeze(-1)
    live = a >= CAUSAL_FLOOR
    E, d_energy = rule.reverse(torch.where(live, f * (p / c) / c, 0.0), -g_energy)
    before = [rule.previous(h, state) for h, state in zip((a, run.S, run.P), run.states)]
    kept = before[0] if rule.gate is None else rule.gate.unsqueeze(-1).to(x.dtype) * before[0]
    # f / c - E without its cancellation: the token's own share is f (c - p) / c^2, and c - p is the kept energy
    pull = pi * A + f / c * torch.where(live, kept / c, 1.0) - rule.following(E, -g_energy)
    dw = 2 * x * pull - pi * q * g
    d_decay = (A * before[1] - E * before[0]).sum(-1) - (B * before[2]).squeeze(-1)
    if run.mask is not None:  # masked tokens do not decay the state
        d_decay = d_decay * run.mask.unsqueeze(-1)
    return (
        dw,
        e * run.score,
        x.shape[-1] * f.squeeze(-1),
        d_decay,
        -d_energy,
        d_moment,
        -d_mass.squeeze(-1),
    )


def _like(grad: Tensor, part: Tensor | None) -> Tensor | None:
    """The gradient of a broadcast input: summed to its shape, in its dtype."""
    if part is None:
        return None
    return grad.sum_to_size(part.shape).to(part.dtype)
