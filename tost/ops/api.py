"""The public operators: check the call, choose a backend, call it."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Literal, overload

import torch
from torch import Tensor

from tost.ops import checks
from tost.ops.segments import segment_ids
from tost.ops.state import TSSAState, TSSAStats

BACKENDS = ("reference", "eager", "cpu", "triton")
_AUTOMATIC = {
    "cpu": ("cpu", "eager"),
    "cuda": ("triton", "eager"),
    "xpu": ("triton", "eager"),
}  # by device, fastest first; "eager" takes every tensor
_loaded: dict[str, ModuleType] = {}


@overload
def tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    mask: Tensor | None = ...,
    cu_seqlens: Tensor | None = ...,
    return_stats: Literal[False] = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    mask: Tensor | None = ...,
    cu_seqlens: Tensor | None = ...,
    return_stats: Literal[True],
    backend: str | None = ...,
) -> tuple[Tensor, TSSAStats]: ...
def tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    return_stats: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, TSSAStats]:
    """Token-statistics attention (arXiv 2412.17810, section 3.2), O(N H D) time, O(H D) extra memory.

        a_h  = max(sum_n w_nh^2, 1e-24)                      pi_nh = softmax_h(temperature_h * sum_d w_nhd^2 / a_hd)
        m_h  = sum_n pi_nh w_nh^2 / (sum_n pi_nh + 1e-8)     y_nh  = -pi_nh * w_nh / (1 + m_h)

    w: [B, N, H, D], float32, float64, float16 or bfloat16.  temperature: [H].
    mask: [B, N] bool, true for real tokens; a masked token enters no sum and gets y = 0 and no gradient.
    cu_seqlens: [S + 1] int, bounds of S sequences packed into B = 1; they do not see each other.
    backend: one of `BACKENDS`, or None to choose.
    Returns y [B, N, H, D] in w's dtype, and with `return_stats` also TSSAStats (no gradient). Sums: float32 or wider.
    Raises ValueError if shapes or dtypes disagree, or if `backend` declines these tensors (with its reason).
    """
    checks.check_call("tssa", w, temperature, mask, cu_seqlens)
    y, *stats = load(which_backend(w, backend)).tssa(w, temperature, mask, cu_seqlens)
    return (y, TSSAStats(*stats)) if return_stats else y


@overload
def causal_tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = ...,
    decay: Tensor | None = ...,
    mask: Tensor | None = ...,
    cu_seqlens: Tensor | None = ...,
    state: TSSAState | None = ...,
    return_state: Literal[False] = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def causal_tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = ...,
    decay: Tensor | None = ...,
    mask: Tensor | None = ...,
    cu_seqlens: Tensor | None = ...,
    state: TSSAState | None = ...,
    return_state: Literal[True],
    backend: str | None = ...,
) -> tuple[Tensor, TSSAState]: ...
def causal_tssa(
    w: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = None,
    decay: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: TSSAState | None = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, TSSAState]:
    """Causal token-statistics attention (arXiv 2412.17810, appendix B), O(N H D) time, O(H D) state.

        a_t = l a_{t-1} + w_t^2       pi_t = softmax_h(temperature_h * sum_d (w_t^2 / max(a_t, 1e-12) + b_ht))
        P_t = l P_{t-1} + pi_t        S_t  = l S_{t-1} + pi_t w_t^2      y_t = -pi_t * w_t / (1 + S_t / (P_t + 1e-8))

    The memberships pi of earlier tokens are not recomputed: this is not `tssa` under a causal mask.
    w: [B, N, H, D], float32, float64, float16 or bfloat16.  temperature: [H].
    position_bias: [H, L] b by position; positions count real tokens from the start of the sequence, over calls.
    decay: [H] l in (0, 1], how much of all three sums survives a token; None is 1, the paper.
    mask, cu_seqlens: as in `tssa`.
    state: TSSAState of S sequences to go on from (S = B, or the packed sequences).
    Returns y [B, N, H, D] in w's dtype, and with `return_state` also the state after the last token. Any split of a
    sequence over calls gives what one call gives. Gradients reach w, temperature, position_bias, decay and the state.
    Raises ValueError if shapes or dtypes disagree, or if `backend` declines these tensors (with its reason).
    """
    checks.check_call("causal_tssa", w, temperature, mask, cu_seqlens)
    if decay is not None or state is not None or position_bias is not None:
        checks.check_causal(w, position_bias, decay, cu_seqlens, state)
    seen = None if state is None else state.length
    bias = None if position_bias is None else bias_by_token(position_bias, w, mask, cu_seqlens, seen)
    energy, moment, mass = (None, None, None) if state is None else state[:3]
    y, *sums = load(which_backend(w, backend)).causal_tssa(
        w, temperature, bias, decay, mask, cu_seqlens, energy, moment, mass
    )
    if not return_state:
        return y
    return y, TSSAState(sums[0], sums[1], sums[2], length_after(w, mask, cu_seqlens, seen))


def which_backend(w: Tensor, backend: str | None = None) -> str:
    """The backend that a call with w would use; raises ValueError with the reason if `backend` declines it."""
    if backend is not None:
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}, or None")
        reason = load(backend).decline(w)
        if reason is not None:
            raise ValueError(f"backend={backend!r} declines: {reason}; pass backend=None to choose automatically")
        return backend
    if torch.compiler.is_exporting():
        return "eager"  # exported graphs hold standard operators only
    for name in _AUTOMATIC.get(w.device.type, ()):
        if load(name).decline(w) is None:
            return name
    return "eager"


def load(name: str) -> ModuleType:
    """The module of a backend, imported at its first use."""
    _import(name)
    return _loaded[name]


def _import(name: str) -> None:
    if name not in _loaded:
        _loaded[name] = importlib.import_module(f"tost.ops.{name}")


# torch.compile cannot trace an import: it runs this while tracing. The mark is all that
# torch.compiler.assume_constant_result sets, after two seconds of importing the compiler
_import._dynamo_marked_constant = True  # type: ignore[attr-defined]


def bias_by_token(
    table: Tensor, w: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, length: Tensor | None
) -> Tensor:
    """position_bias [H, L] looked up at each token's position, after `length` [S] earlier ones: [B or 1, N, H]."""
    N = w.shape[1]
    if mask is None and cu_seqlens is None and length is None:
        checks.check_positions(N, table)
        return table[:, :N].t().unsqueeze(0)
    seen = _real(w, mask).cumsum(1)
    if cu_seqlens is None:
        position = seen - 1
        start = None if length is None else length.unsqueeze(1)
    else:
        ids = segment_ids(N, cu_seqlens)
        before = torch.cat([seen.new_zeros(1), seen[0]])[cu_seqlens[:-1].long()]
        position = seen - 1 - before[ids]
        start = None if length is None else length[ids].unsqueeze(0)
    position = (position if start is None else position + start).clamp(min=0)
    checks.check_positions(position, table)
    return table.t()[position]


def length_after(w: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, length: Tensor | None) -> Tensor:
    """[S] int64, real tokens seen so far by each sequence, after `length` [S] earlier ones."""
    if mask is None and cu_seqlens is None:
        if length is not None:
            return length + w.shape[1]
        return torch.full((w.shape[0],), w.shape[1], dtype=torch.int64, device=w.device)
    if cu_seqlens is None:
        count = _real(w, mask).sum(1)
    else:
        tokens = torch.cat([torch.zeros(1, dtype=torch.int64, device=w.device), _real(w, mask)[0].cumsum(0)])
        count = tokens[cu_seqlens.long()].diff()
    return count if length is None else length + count


def _real(w: Tensor, mask: Tensor | None) -> Tensor:
    """[B, N] int64, 1 for real tokens."""
    return torch.ones(w.shape[:2], dtype=torch.int64, device=w.device) if mask is None else mask.long()
