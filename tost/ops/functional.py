"""Whether one of torch's functional transforms is at work that fused kernels have no rule for."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transform_reason() -> str | None:
    """Why a fused backend cannot run under the transforms at work now, or None."""
    if torch.compiler.is_compiling():
        return None
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
