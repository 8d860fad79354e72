"""Both operators as fused kernels on the CPU, forward and backward (Numba, compiled at the first call)."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from tost.ops.cpu import operators
from tost.ops.functional import transform_reason
from tost.ops.registration import Kernels, register

__all__ = ["causal_tssa", "decline", "tssa", "warm"]

_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_NUMBA = importlib.util.find_spec("numba") is not None


def decline(w: Tensor) -> str | None:
    """Why this backend cannot take `w`, or None."""
    if w.device.type != "cpu":
        return f"its kernels run on the CPU, w is on {w.device}"
    if w.dtype not in _DTYPES:
        return f"it takes float32, float64, float16 and bfloat16, got {w.dtype}"
    if not _NUMBA:
        return "numba is not installed"
    return transform_reason()


def _state_rows(w: Tensor, cu_seqlens: Tensor | None) -> int:
    return w.shape[0] * w.shape[1] // operators.CHUNK[w.element_size()]


tssa, causal_tssa = register(
    "cpu",
    "CPU",
    Kernels(operators.full, operators.full_backward, operators.causal, operators.causal_backward, _state_rows),
)


def warm(dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> dict[str, float]:
    """Compiles (or loads from disk) what calls with these dtypes need; returns seconds by kernel."""
    from tost.ops.cpu import compile

    return compile.warm(dtypes)
