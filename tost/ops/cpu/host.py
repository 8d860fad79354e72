"""The kernels as torch operators: memory for the results, shapes for tracing, derivatives."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones), R = B*N

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

HUGE = 1 << 22  # bytes from which large pages pay
STATE = "Tensor? energy, Tensor? moment, Tensor? mass"
CHUNK = {2: 128, 4: 64, 8: 64}  # rows between saved states by w's bytes a number: at most a tenth of w with the memberships

library = torch.library.Library("tost", "FRAGMENT")
library.define(
    "cpu_tssa(Tensor w, Tensor temperature, Tensor? mask, Tensor? cu_seqlens) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
library.define(
    "cpu_tssa_backward(Tensor g, Tensor w, Tensor temperature, Tensor? mask, Tensor? cu_seqlens, Tensor membership,"
    " Tensor energy, Tensor mass, Tensor moment) -> (Tensor, Tensor)"
)
library.define(
    "cpu_causal_tssa(Tensor w, Tensor temperature, Tensor? bias, Tensor? decay, Tensor? mask, Tensor? cu_seqlens,"
    " Tensor? energy, Tensor? moment, Tensor? mass, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
library.define(
    "cpu_causal_tssa_backward(Tensor g, Tensor g_energy, Tensor g_moment, Tensor g_mass, Tensor w, Tensor temperature,"
    " Tensor? bias, Tensor? decay, Tensor? mask, Tensor? cu_seqlens, Tensor? energy, Tensor? moment, Tensor? mass,"
    " Tensor membership, Tensor states) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32


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

    Writing to a large fresh tensor costs several times more than the copy itself when it comes in pages of 4 kB: ask for
    large ones (an advice, which the system may not take).
    """
    out = torch.empty(like.shape, dtype=like.dtype)
    size = out.nbytes
    if size >= HUGE and _MADVISE is not None:
        start = (out.data_ptr() + 4095) // 4096 * 4096
        _MADVISE(start, (out.data_ptr() + size - start) // 4096 * 4096, 14)  # MADV_HUGEPAGE
    return out


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def ready(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Contiguous, in this dtype."""
    return None if tensor is None else tensor.to(dtype).contiguous()


def count_of(w: Tensor, cu_seqlens: Tensor | None) -> int:
    return w.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
