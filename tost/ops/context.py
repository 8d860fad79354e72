"""One sequence over many processes: each holds a stretch of its tokens, and only sums travel.

Process r of the group has tokens [start_r, start_{r+1}) of every sequence, in the order of the ranks; stretches may
differ in length, and be empty. What a process sends is H (2D + 1) sums a pass, whatever the length.
"""

# B batch, N tokens of this process, H heads, D features per head, R processes

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tost.ops import checks
from tost.ops.api import causal_tssa
from tost.ops.collectives import gathered, summed
from tost.ops.common import MASS_EPS, statistics_dtype
from tost.ops.segments import no_autocast, zero_masked
from tost.ops.state import TSSAState

FULL_FLOOR = 1e-24  # of the energy, as published


def context_tssa(w: Tensor, temperature: Tensor, *, mask: Tensor | None = None, group: Any = None) -> Tensor:
    """`tssa` of a sequence that is split over the processes of `group` (None: all); arguments and result are local.

    Two sums over the group forward, H D and H (D + 1) numbers a sequence, and two of H D backward. Gradients of w are
    whole; that of temperature is this process's part, to be added over the group as any gradient of data parallelism.
    w: [B, N, H, D], B the same everywhere.  Raises ValueError if shapes or dtypes disagree.
    """
    checks.check_call("context_tssa", w, temperature, mask, None)
    return _Full.apply(w, temperature, mask, group)


class _Full(torch.autograd.Function):
    """The closed form of docs/math.md, its sums over tokens taken over the group."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, temperature: Tensor, mask: Tensor | None, group: Any) -> Tensor:
        with no_autocast(w.device.type):
            x, t = zero_masked(w, mask), temperature.to(statistics_dtype(w.dtype))
            p = x.square()
            a = summed(p.sum(1), group)
            pi = _share(p / a.clamp_min(FULL_FLOOR)[:, None], t, mask)[0]
            sums = summed(torch.cat([torch.einsum("bnh,bnhd->bhd", pi, p), pi.sum(1)[..., None]], -1), group)
            Q = sums[..., -1:] + MASS_EPS
            m = sums[..., :-1] / Q
            y = -pi[..., None] * x / (1 + m[:, None])
        ctx.save_for_backward(w, temperature, mask, a, m, Q)
        ctx.group = group
        return y.to(w.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, temperature, mask, a, m, Q = ctx.saved_tensors
        with no_autocast(w.device.type):
            x, g, t = zero_masked(w, mask), zero_masked(grads[0], mask), temperature.to(a.dtype)
            p, c, q = x.square(), a.clamp_min(FULL_FLOOR), 1 / (1 + m)
            pi, s = _share(p / c[:, None], t, mask)
            A = q.square() / Q * summed(torch.einsum("bnh,bnhd->bhd", pi, x * g), ctx.group)
            u = (A[:, None] * p - q[:, None] * x * g).sum(-1) - (A * m).sum(-1)[:, None]
            e = pi * (u - (pi * u).sum(-1, keepdim=True))
            f = (t * e)[..., None]
            E = summed((f * p).sum(1), ctx.group) / c.square() * (a >= FULL_FLOOR)
            dw = -pi[..., None] * q[:, None] * g + 2 * x * (pi[..., None] * A[:, None] + f / c[:, None] - E[:, None])
            return dw.to(w.dtype), (e * s).sum((0, 1)).to(temperature.dtype), None, None


def _share(scaled: Tensor, t: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Memberships and scores [B, N, H] of squares over their energy."""
    s = scaled.sum(-1)
    pi = torch.softmax(t * s, -1)
    return (pi if mask is None else pi * mask[..., None]), s


def context_causal_tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = None,
    clamp_positions: bool = False,
    decay: Tensor | None = None,
    mask: Tensor | None = None,
    group: Any = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, TSSAState]:
    """`causal_tssa` of a sequence that is split over the processes of `group` (None: all); all arguments are local.

    Every process needs the state before its first token: the sums of those before it, an exclusive scan. Memberships
    hang on the energy, so that is scanned first, H D sums a sequence and a count; then mass and moment, H (D + 1). The
    operator runs twice, with decay once more. Gradients of w are whole, those of the parameters this process's part.
    clamp_positions: tokens beyond the table take its last bias.
    With `return_state` also the state after this process's last token; the last process has the sequence's.
    Raises ValueError, in every process, if the sequence is longer than the table of position_bias.
    """
    checks.check_call("context_causal_tssa", w, temperature, mask, None)
    checks.check_causal(w, position_bias, decay, None, None)
    B, N, H, D = w.shape
    rank = dist.get_rank(group)
    alone: dict[str, Any] = {"decay": decay, "mask": mask, "backend": backend}
    if decay is None:
        energy = zero_masked(w, mask).square().sum(1, dtype=torch.float64)
    else:  # the operator's memory is less than that of squares times their powers of the decay
        energy = causal_tssa(w, temperature, return_state=True, **alone)[1].energy
    real = energy.new_full((B,), N) if mask is None else mask.sum(1, dtype=energy.dtype)
    parts = gathered(torch.cat([energy.flatten(1), real[:, None]], 1), group)
    counts = parts[..., -1].detach().long()  # [R, B]
    kept = _kept(counts, decay, rank, H)
    energy = torch.einsum("rbhd,rbh->bhd", parts[..., :-1].unflatten(-1, (H, D)), kept)
    before = counts[:rank].sum(0)
    bias, length = _positions(position_bias, clamp_positions, before, counts, N)
    options: dict[str, Any] = {"position_bias": bias, **alone}
    start = TSSAState.zeros(B, H, D, device=w.device)._replace(energy=energy, length=length)
    _, local = causal_tssa(w, temperature, state=start, return_state=True, **options)
    parts = gathered(torch.cat([local.moment, local.mass[..., None]], -1), group)
    sums = torch.einsum("rbhf,rbh->bhf", parts, kept)
    start = start._replace(moment=sums[..., :-1].contiguous(), mass=sums[..., -1].contiguous())
    y, end = causal_tssa(w, temperature, state=start, return_state=True, **options)
    return (y, end._replace(length=before + counts[rank])) if return_state else y


def _kept(counts: Tensor, decay: Tensor | None, rank: int, H: int) -> Tensor:
    """[R, B, H] float64: what is left of each process's sums at the first token of this one; 0 of those not before it.

    All take part in the sum, so that all take part in its backward pass.
    """
    earlier = torch.arange(len(counts), device=counts.device) < rank
    if decay is None:
        return earlier.double()[:, None, None].expand(-1, counts.shape[1], H)
    ours = torch.where(earlier[:, None], counts, 0)
    between = ours.sum(0) - ours.cumsum(0)  # real tokens after that process and before this one
    return decay.double() ** between[..., None] * earlier[:, None, None]


def _positions(
    table: Tensor | None, clamp: bool, before: Tensor, counts: Tensor, N: int
) -> tuple[Tensor | None, Tensor]:
    """The table of position bias and the count [B] of earlier tokens, with which the operator starts."""
    if table is None:
        return None, before
    L = table.shape[1]
    if clamp:
        return torch.cat([table, table[:, -1:].expand(-1, N)], 1), before.clamp(max=L)
    checks.check_positions(counts.sum(0) - 1, table)  # the whole sequence, so that no process waits for one that raised
    return table, before
