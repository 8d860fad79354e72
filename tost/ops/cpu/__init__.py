"""Both operators as fused kernels on the CPU, forward and backward (Numba, compiled at the first call)."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tost.ops.cpu import autograd

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
    if not torch.compiler.is_compiling():
        if torch._C._functorch.peek_interpreter_stack() is not None and _is_mapped():
            return "it has no rule for vmap and forward-mode derivatives"
        if forward_ad._current_level >= 0:
            return "it has no forward-mode derivative"
    return None


def _is_mapped() -> bool:
    """Whether a functional transform other than grad is at work."""
    kinds = torch._C._functorch.TransformType
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() not in (kinds.Grad, kinds.Functionalize) for level in stack)


def tssa(w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
    """Full token statistics; returns y, membership, energy, mass, moment (see tost.ops.api.tssa)."""
    if torch.is_grad_enabled() and (w.requires_grad or temperature.requires_grad):
        return autograd.Full.apply(w, temperature, mask, cu_seqlens)
    return torch.ops.tost.cpu_tssa(w, temperature, mask, cu_seqlens)


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
    keep = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in inputs)
    if keep:
        return autograd.Causal.apply(*inputs, True)[:4]
    return torch.ops.tost.cpu_causal_tssa(*inputs, False)[:4]


def warm(dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> dict[str, float]:
    """Compiles (or loads from disk) what calls with these dtypes need; returns seconds by kernel."""
    from tost.ops.cpu import compile

    return compile.warm(dtypes)
