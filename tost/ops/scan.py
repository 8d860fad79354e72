"""Running sums over tokens that do not drift: the one building block of the causal operator in plain torch."""

# B batch, N tokens, H heads, D features per head, L tokens per chunk, C chunks

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32  # a triangular product of this size costs less than the memory traffic it replaces


def running_sum(
    x: Tensor, gate: Tensor | None = None, base: Tensor | None = None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Gated running sum over dim 1; the sum of whole chunks is carried in float64, so its error does not grow with N.

        h_t = gate_t * h_{t-1} + x_t,   h_0 = base                      (reverse: A_t = x_t + gate_{t+1} A_{t+1},
                                                                         with gate_{N+1} A_{N+1} = base)
    x: [B, N, H, D].  gate: [B, N, H] in [0, 1] (None: all ones).  base: [B, H, D] float64 (None: zero).
    Returns h in x's dtype and what leaves the scan, [B, H, D] in float64: h_N (reverse: gate_1 A_1).
    """
    B, N, H, D = x.shape
    if base is None:
        base = x.new_zeros(B, H, D, dtype=torch.float64)
    if gate is None and torch.compiler.is_exporting():  # chunks would tie the exported graph to this N
        wide = (x.flip(1) if reverse else x).double().cumsum(1) + base.unsqueeze(1)
        return (wide.flip(1) if reverse else wide).to(x.dtype), base + x.double().sum(1)
    if N == 0:
        return x, base.clone()  # an output must not be an input
    L = min(CHUNK, N)
    padding = -N % L
    if padding:
        x = F.pad(x, (0, 0, 0, 0, 0, padding))
        gate = None if gate is None else F.pad(gate, (0, 0, 0, padding), value=1.0)
    x = x.unflatten(1, (-1, L))
    if gate is None:
        out, end = _plain(x, base, reverse)
    else:
        out, end = _gated(x, gate.unflatten(1, (-1, L)), base, reverse)
    out = out.flatten(1, 2)
    return (out[:, :N] if padding else out), end


def _plain(x: Tensor, base: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """`running_sum` of chunks [B, C, L, H, D] whose gates are all one: one product with a triangle a chunk."""
    B, C, L, H, D = x.shape
    sums = x.sum(2).double()
    running = sums.cumsum(1)
    total = running[:, -1]
    carry = (total.unsqueeze(1) - running if reverse else running - sums) + base.unsqueeze(1)
    ones = x.new_ones(L, L)
    triangle = (ones.triu() if reverse else ones.tril()).expand(B * C, L, L)
    out = torch.baddbmm(carry.to(x.dtype).view(B * C, 1, H * D), triangle, x.reshape(B * C, L, H * D))
    return out.view(x.shape), total + base


def _gated(x: Tensor, gate: Tensor, base: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """`running_sum` of chunks [B, C, L, H, D] with gates [B, C, L, H]; what leaves them is scanned by the same rule."""
    weights = decay_triangle(gate.transpose(2, 3)).to(x.dtype)  # [B, C, H, L, L]
    local = ((weights.transpose(-1, -2) if reverse else weights) @ x.transpose(2, 3)).transpose(2, 3)
    through = gate.double().cumprod(2).unsqueeze(-1)  # gate_1 ... gate_t
    whole = through[:, :, -1]
    if reverse:  # what comes from behind the chunk still counts gate_{t+1} ... gate_L
        reach = decay_triangle(gate.transpose(2, 3))[..., -1, :].transpose(2, 3).unsqueeze(-1)
        leaving = gate[:, :, 0].double().unsqueeze(-1) * local[:, :, 0]
    else:
        reach, leaving = through, local[:, :, -1].double()
    if x.shape[1] == 1:
        carry, end = base.unsqueeze(1), whole[:, 0] * base + leaving[:, 0]
    else:
        carry, end = _exclusive(leaving, whole.squeeze(-1), base, reverse)
    return (reach * carry.unsqueeze(2) + local).to(x.dtype), end


def _exclusive(leaving: Tensor, whole: Tensor, base: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """What enters every chunk, and what leaves the last, from what each chunk adds and lets through."""
    if not reverse:
        after, end = running_sum(leaving, whole, base)
        return torch.cat([base.unsqueeze(1), after[:, :-1]], 1), end
    # as a forward scan over the chunks from the last: r_c = whole_c r_{c+1} + leaving_c
    after, end = running_sum(leaving.flip(1), whole.flip(1), base)
    return torch.cat([after[:, :-1].flip(1), base.unsqueeze(1)], 1), end


def decayed_sum(x: Tensor, decay: Tensor, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`running_sum` with the same gate [H] at every token: one triangle of powers serves all chunks.

    x: [B, N, H, D].  decay: [H] in (0, 1].  base: [B, H, D] float64 (None: zero).  Returns h and h_N as running_sum.
    """
    B, N, H, D = x.shape
    if base is None:
        base = x.new_zeros(B, H, D, dtype=torch.float64)
    if torch.compiler.is_exporting() and not isinstance(N, int):
        return _one_triangle(x, decay, base)
    if N == 0:
        return x, base.clone()
    L = min(CHUNK, N)
    power = decay.double().unsqueeze(-1) ** torch.arange(L + 1, device=x.device)  # [H, L + 1]
    if N == 1:
        end = power[:, 1:] * base + x[:, 0].double()
        return end.to(x.dtype).unsqueeze(1), end
    chunks = F.pad(x, (0, 0, 0, 0, 0, -N % L)).unflatten(1, (-1, L))
    age = torch.arange(L, device=x.device)[:, None] - torch.arange(L, device=x.device)
    weights = torch.where(age >= 0, power[:, age.clamp(min=0)], 0.0).to(x.dtype)  # [H, L, L]
    local = (weights @ chunks.transpose(2, 3)).transpose(2, 3)  # [B, C, L, H, D]
    C = local.shape[1]
    carry = base.unsqueeze(1)
    if C > 1:
        leaving, _ = decayed_sum(local[:, :-1, -1].double(), power[:, L], base)
        carry = torch.cat([carry, leaving], 1)  # what enters every chunk
    reach = power[:, 1:].t()[:, :, None]  # [L, H, 1]
    out = (reach * carry.unsqueeze(2) + local).to(x.dtype).flatten(1, 2)
    last = N - (C - 1) * L
    end = power[:, last].unsqueeze(-1) * carry[:, -1] + local[:, -1, last - 1].double()
    return out[:, :N], end


def _one_triangle(x: Tensor, decay: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """`decayed_sum` of N tokens that an exported graph leaves open: chunks would tie the graph to their number.

    One triangle [H, N, N]; a graph is fed a stream call by call, so it is as small as the calls are short.
    """
    N = x.shape[1]
    token = torch.arange(N, device=x.device)
    power = decay.double().unsqueeze(-1) ** torch.arange(N + 1, device=x.device)  # [H, N + 1]
    age = token[:, None] - token
    weights = torch.where(age >= 0, power[:, age.clamp(min=0)], 0.0).to(x.dtype)
    local = (weights @ x.transpose(1, 2)).transpose(1, 2)
    out = power[:, 1:].t()[:, :, None] * base.unsqueeze(1) + local
    return out.to(x.dtype), out[:, -1]


def decay_triangle(gate: Tensor) -> Tensor:
    """Products of gates out[..., t, s] = prod_{s < r <= t} gate_r for s <= t, else 0: what token s counts for at t.

    gate: [..., L].  Returns float64 [..., L, L].  Products, not differences of logarithms: a gate of 0 stays exact.
    """
    L = gate.shape[-1]
    below = torch.ones(L, L, dtype=torch.bool, device=gate.device).tril(-1)
    return torch.where(below, gate.double().unsqueeze(-1), 1.0).cumprod(-2).tril()
