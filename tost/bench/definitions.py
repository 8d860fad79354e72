"""What the contestants of a gate are checked against, in float64 and in the simplest words."""

# B batch, N tokens, H heads, D features per head, R rows

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tost.bench.attention import log_decay
from tost.bench.contestants import Case
from tost.ops import causal_tssa, tssa

ROWS = 64  # queries that are checked of an attention whose rows don't depend on each other
ENTRIES = 2**23  # of a [rows, N] matrix, at most
CHUNK = 2**14  # tokens held in float64 at once


def operator(case: Case, w: Tensor, g: Tensor, temperature: Tensor, backend: str = "eager") -> tuple[Tensor, ...]:
    """y, and with train dw and dtemperature, of the token-statistics operator.  w, g: [B, N, H, D]."""
    w, t = (x.detach().double().requires_grad_(case.train) for x in (w, temperature))
    y: Any = (tssa if case.op == "full" else causal_tssa)(w, t, backend=backend)
    return (y.detach(), *(torch.autograd.grad(y, (w, t), g.double()) if case.train else ()))


def operator_by_chunks(op: str, w: Tensor, temperature: Tensor) -> Iterator[Tensor]:
    """y of the operator for CHUNK tokens after another: nothing of w's size is held in float64."""
    t, parts = temperature.double(), w.split(CHUNK, dim=1)
    if op == "causal":
        state = None
        for part in parts:
            y, state = causal_tssa(part.double(), t, state=state, return_state=True, backend="eager")
            yield y
        return

    def memberships(part: Tensor) -> Tensor:
        return torch.softmax(t * (part.double() ** 2 / energy).sum(-1), dim=-1)  # [B, n, H]

    energy = sum((part.double() ** 2).sum(1, keepdim=True) for part in parts)  # [B, 1, H, D]
    energy = torch.as_tensor(energy).clamp_min(1e-24)
    mass: Any = sum(memberships(part).sum(1, keepdim=True) for part in parts)
    moment: Any = sum((memberships(part)[..., None] * part.double() ** 2).sum(1, keepdim=True) for part in parts)
    factor = -1 / (1 + moment / (mass + 1e-8)[..., None])
    for part in parts:
        yield memberships(part)[..., None] * part.double() * factor


def attend(computes: str, case: Case, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, y, dq) of an attention at some tokens: rows [R], y and dq [B, R, H, D].  q, k, v, g: [B, N, H, D].

    Of cross-covariance attention, whose rows depend on each other, all rows.
    """
    function = DEFINITIONS[computes]
    N = case.N
    count = N if computes == "xca" else max(1, min(ROWS, ENTRIES // N, N))
    rows = torch.linspace(0, N - 1, count, device=q.device).round().long()
    y, dq = (torch.empty(case.B, count, case.H, case.D, dtype=torch.float64, device=q.device) for _ in range(2))
    for b in range(case.B):
        for h in range(case.H):
            query = q[b, rows, h].detach().double().requires_grad_()
            decay = float(log_decay(case.H)[h])
            out = function(query, k[b, :, h].detach().double(), v[b, :, h].detach().double(), rows,
                           case.op == "causal", decay)  # fmt: skip
            y[b, :, h] = out.detach()
            (dq[b, :, h],) = torch.autograd.grad(out, query, g[b, rows, h].double())
    return rows, y, dq


def _seen(weights: Tensor, rows: Tensor, causal: bool) -> Tensor:
    """weights [R, N], zero where a causal row does not look."""
    tokens = torch.arange(weights.shape[1], device=weights.device)
    return weights.masked_fill(tokens > rows[:, None], 0) if causal else weights


def _softmax(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, causal: bool, decay: float) -> Tensor:
    scores = q @ k.T / q.shape[-1] ** 0.5
    if causal:
        future = torch.arange(len(k), device=k.device) > rows[:, None]
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1) @ v


def _linear(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, causal: bool, decay: float) -> Tensor:
    weights = _seen((F.elu(q) + 1) @ (F.elu(k) + 1).T, rows, causal)
    return weights @ v / weights.sum(-1, keepdim=True)


def _linear_sum(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, causal: bool, decay: float) -> Tensor:
    return _seen((F.elu(q) + 1) @ (F.elu(k) + 1).T, rows, causal) @ v / q.shape[-1]


def _state_space(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, causal: bool, decay: float) -> Tensor:
    age = rows[:, None] - torch.arange(len(k), device=k.device)
    return _seen(q @ k.T * torch.exp(decay * age.clamp_min(0)), rows, True) @ v / q.shape[-1]


def _xca(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, causal: bool, decay: float) -> Tensor:
    q, k = F.normalize(q, dim=0), F.normalize(k, dim=0)
    return v @ (q.T @ k).softmax(-1).T


DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "softmax": _softmax,
    "linear": _linear,
    "linear_sum": _linear_sum,
    "state_space": _state_space,
    "xca": _xca,
}
