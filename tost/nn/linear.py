"""Linear layers, through oneDNN where that pays: torch's usual float32 product on x86 is tuned for Intel's chips."""

# N rows (all leading axes), C -> C' features

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _made_by_amd() -> bool:
    """Whether this is an x86 processor of AMD's, where the gain was measured."""
    try:
        named = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:  # no Linux
        named = platform.processor()
    return "AuthenticAMD" in named


AMD = _made_by_amd()
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
WORTHWHILE = 2**22  # products N C C' from which oneDNN's repacking of the weights pays for itself


class Linear(nn.Linear):
    """torch.nn.Linear, computed by oneDNN for large float32 inputs on AMD's x86 processors (twice as fast).

    The weights, and values and derivatives up to rounding, are nn.Linear's.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not uses_onednn(x, self):
            return super().forward(x)
        if torch.is_grad_enabled():
            return _Product.apply(x, self.weight, self.bias)
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """x weight^T + bias by oneDNN, then="gelu": the exact GELU of it, in the same pass."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")


def convolution_gelu(x: Tensor, weight: Tensor, bias: Tensor, padding: Any, stride: Any) -> Tensor:
    """The exact GELU of a convolution, in one pass of oneDNN's."""
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, (1, 1), 1, "gelu", [], "none")


class _Product(torch.autograd.Function):
    """`product` with its derivatives; when they are to be differentiated again, by torch's usual products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        multiply = F.linear if torch.is_grad_enabled() else product
        g_rows, x_rows = g.flatten(0, -2), x.flatten(0, -2).contiguous()
        return (
            multiply(g, weight.t()) if ctx.needs_input_grad[0] else None,
            multiply(g_rows.t(), x_rows.t()) if ctx.needs_input_grad[1] else None,
            g_rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


def uses_onednn(x: Tensor, *layers: nn.Module) -> bool:
    """Whether x should pass `layers` by oneDNN's own operations: where takes_onednn(x), and through layers that
    nothing has wrapped, replaced or quantised.
    """
    return takes_onednn(x) and all(_plain(layer, x) for layer in layers)


def takes_onednn(x: Tensor) -> bool:
    """Whether x is plain float32 on the CPU, outside of tracing, torch.func's transforms and autocast."""
    return (
        not torch.compiler.is_compiling()
        and AMD
        and ONEDNN
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(x) is Tensor
        and bool(torch.backends.mkldnn.enabled)
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _plain(layer: nn.Module, x: Tensor) -> bool:
    """A layer whose weights are an ordinary float32 parameter, large enough for x."""
    return (
        type(layer) is Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.dtype == torch.float32
        and x.numel() // max(x.shape[-1], 1) * layer.weight.numel() >= WORTHWHILE
    )


def heard(layer: nn.Module) -> bool:
    """Whether hooks listen to the layer, so that it must be called as a module."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
