"""The kernels as torch operators: memory for the results, shapes for tracing, derivatives."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones), R = B*N

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

from tost.ops.common import statistics_dtype
from tost.ops.registration import count_of

PAGE = 1 << 21  # bytes of a large page
LARGE, NEVER = 1 << 21, 1 << 62  # numbers of a sequence from which threads share it for the cache's sake
# rows between saved states, by w's bytes a number: with the memberships at most a tenth of w
CHUNK = {2: 128, 4: 64, 8: 64}

Plan = tuple[tuple[int, int, int], tuple[int, ...]]


def _advise() -> Any:
    """Linux's madvise, or None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_MADVISE = _advise()


def fresh(like: Tensor) -> Tensor:
    """Memory for a contiguous tensor like this one.

    The first write to memory fresh from the system costs several times more than the copy itself where pages have 4 kB:
    ask for large ones (an advice, which the system may not take).
    """
    out = torch.empty(like.shape, dtype=like.dtype)
    if out.nbytes >= 2 * PAGE and _MADVISE is not None:
        start = -(-out.data_ptr() // PAGE) * PAGE
        _MADVISE(start, (out.data_ptr() + out.nbytes - start) // PAGE * PAGE, 14)  # MADV_HUGEPAGE
    return out


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def ready(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Contiguous, in this dtype."""
    return None if tensor is None else tensor.to(dtype).contiguous()


def plan(w: Tensor, cu_seqlens: Tensor | None, unit: int, large: int, passes: int, whole: tuple[int, int]) -> Plan:
    """The arguments of `compile.launch` that say how work may be dealt out."""
    B, N, H, D = w.shape
    sequences = (count_of(w, cu_seqlens), N, address(cu_seqlens))
    return sequences, (H * D, unit, large, passes, *whole, B * N * H * D)


def full(
    w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, membership, energy, mass, moment."""
    from tost.ops.cpu.compile import launch
    from tost.ops.cpu.full import forward_words

    w, mask, cu_seqlens = w.contiguous(), ready(mask, torch.bool), ready(cu_seqlens, torch.int64)
    B, N, H, D = w.shape
    S, wide = count_of(w, cu_seqlens), statistics_dtype(w.dtype)
    t = temperature.to(wide).contiguous()
    y, membership = fresh(w), torch.empty(B, N, H, dtype=wide)
    energy, moment = torch.empty(S, H, D, dtype=wide), torch.empty(S, H, D, dtype=wide)
    mass = torch.empty(S, H, dtype=wide)
    own = (H, D, *map(address, (w, y, t, mask, membership, energy, mass, moment)))
    launch("full", w.dtype, *plan(w, cu_seqlens, 16, LARGE, 3, (0, 3)), forward_words(H, D), own)
    return y, membership, energy, mass, moment


def full_backward(
    g: Tensor,
    w: Tensor,
    temperature: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    membership: Tensor,
    energy: Tensor,
    mass: Tensor,
    moment: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients to w and temperature."""
    from tost.ops.cpu.compile import launch
    from tost.ops.cpu.full_backward import backward_words

    w, g, mask, cu_seqlens = w.contiguous(), g.contiguous(), ready(mask, torch.bool), ready(cu_seqlens, torch.int64)
    H, D = w.shape[2:]
    t = temperature.to(membership.dtype).contiguous()
    dw, dots = fresh(w), torch.empty_like(membership)
    dt = torch.empty(count_of(w, cu_seqlens), H, dtype=torch.float64)
    own = (H, D, *map(address, (w, g, t, mask, membership, energy, mass, moment, dots, dw, dt)))
    launch("full backward", w.dtype, *plan(w, cu_seqlens, 16, LARGE, 3, (0, 3)), backward_words(H, D), own)
    return dw, dt.sum(0).to(temperature.dtype)


def causal(
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    energy: Tensor | None,
    moment: Tensor | None,
    mass: Tensor | None,
    keep: bool,
) -> tuple[Tensor, ...]:
    """y, the outgoing energy, moment, mass, and if `keep` memberships and the sums between chunks, for the gradient."""
    from tost.ops.cpu.causal import forward_words
    from tost.ops.cpu.compile import launch

    w, mask, cu_seqlens = w.contiguous(), ready(mask, torch.bool), ready(cu_seqlens, torch.int64)
    B, N, H, D = w.shape
    S, wide, chunk = count_of(w, cu_seqlens), statistics_dtype(w.dtype), CHUNK[w.element_size()]
    t, bias, decay = temperature.to(wide).contiguous(), ready(bias, wide), ready(decay, wide)
    energy, moment, mass = (ready(part, torch.float64) for part in (energy, moment, mass))
    y, ends = (
        fresh(w),
        (*(torch.empty(S, H, D, dtype=torch.float64) for _ in range(2)), torch.empty(S, H, dtype=torch.float64)),
    )
    shared = keep or (w.numel() >= 1 << 16 and 2 * S < 1 << 16)  # memberships pass from thread to thread
    membership = torch.empty((B, N, H) if shared else 0, dtype=wide)
    states = torch.zeros((B * N // chunk, H * (2 * D + 1)) if keep else 0, dtype=wide)  # some places stay unused
    own = (
        H,
        D,
        0 if bias is None else bias.shape[0] * N,
        chunk,
        *map(address, (w, y, t, mask, bias, decay, energy, moment, mass, *ends, membership, states)),
        keep,
    )
    launch("causal", w.dtype, *plan(w, cu_seqlens, chunk, NEVER, 3, (-1, 0)), forward_words(H, D), own)
    return y, *ends, membership if keep else torch.empty(0, dtype=wide), states


def causal_backward(
    g: Tensor,
    g_energy: Tensor | None,
    g_moment: Tensor | None,
    g_mass: Tensor | None,
    w: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    decay: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    energy: Tensor | None,
    moment: Tensor | None,
    mass: Tensor | None,
    membership: Tensor,
    states: Tensor,
    wants_decay: bool,
) -> tuple[Tensor, ...]:
    """Gradients to w, temperature, bias, decay, energy, moment, mass; empty where there is no such input."""
    from tost.ops.cpu.causal_backward import backward_words
    from tost.ops.cpu.compile import launch

    w, g, mask, cu_seqlens = w.contiguous(), g.contiguous(), ready(mask, torch.bool), ready(cu_seqlens, torch.int64)
    B, N, H, D = w.shape
    S, wide, chunk = count_of(w, cu_seqlens), membership.dtype, CHUNK[w.element_size()]
    double = torch.float64
    t, b, l = temperature.to(wide).contiguous(), ready(bias, wide), ready(decay, wide)
    a, m, p = (ready(part, double) for part in (energy, moment, mass))
    ga, gm, gp = (ready(part, double) for part in (g_energy, g_moment, g_mass))
    dw, dt = fresh(w), torch.empty(S, H, dtype=double)
    db = torch.empty((0,) if b is None else (B, N, H), dtype=wide)
    dl = torch.empty((S, H) if wants_decay else (0,), dtype=double)
    ds = [torch.empty((0,) if part is None else part.shape, dtype=double) for part in (a, m, p)]
    own = (
        H,
        D,
        0 if b is None else b.shape[0] * N,
        chunk,
        *map(address, (w, g, t, mask, b, l, a, m, p, membership, states, ga, gm, gp, dw, dt, db)),
        address(dl) if wants_decay else 0,
        *(0 if part is None else address(d) for part, d in zip((a, m, p), ds)),
    )
    launch("causal backward", w.dtype, *plan(w, cu_seqlens, chunk, NEVER, 4, (-1, 0)), backward_words(H, D, chunk), own)
    if bias is not None:
        db = db.sum_to_size(bias.shape).to(bias.dtype)
    if wants_decay and decay is not None:
        dl = dl.sum(0).to(decay.dtype)
    given = [d if part is None else d.to(part.dtype) for part, d in zip((energy, moment, mass), ds)]
    return dw, dt.sum(0).to(temperature.dtype), db, dl, *given
