"""Both operators as fused GPU kernels, forward and backward (Triton: NVIDIA, AMD; its interpreter on a CPU)."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from tost.ops.functional import transform_reason
from tost.ops.registration import Kernels, register
from tost.ops.triton.sizes import padded

__all__ = ["causal_tssa", "decline", "tssa"]

WIDEST = 2**14  # features of one token, its heads and their features padded to powers of two, that a program can hold
_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_FOUND = importlib.util.find_spec("triton") is not None


def decline(w: Tensor) -> str | None:
    """Why this backend cannot take `w`, or None."""
    if w.device.type == "cpu":
        if not interpreted():
            return "its kernels run on a GPU, w is on the CPU (TRITON_INTERPRET=1 runs them there, slowly)"
    elif w.device.type not in ("cuda", "xpu"):
        return f"its kernels run on a GPU, w is on {w.device}"
    if not _FOUND:
        return "triton is not installed"
    if w.dtype not in _DTYPES:
        return f"it takes float32, float64, float16 and bfloat16, got {w.dtype}"
    H, D = w.shape[-2:]
    if padded(H) * padded(D) > WIDEST:
        return f"it takes tokens of at most {WIDEST} features padded to powers of two, got {H} heads of {D}"
    return transform_reason()


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: they were, or would be, loaded with TRITON_INTERPRET set."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


if _FOUND:
    from tost.ops.triton import causal, causal_backward, full, full_backward

    tssa, causal_tssa = register(
        "triton",
        "CompositeExplicitAutograd",
        Kernels(
            full.full, full_backward.full_backward, causal.causal, causal_backward.causal_backward, causal.state_rows
        ),
    )
