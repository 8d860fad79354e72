"""Linear layers, through oneDNN where that pays: torch's usual float32 product on x86 is tuned for Intel's chips."""

# N rows (all leading axes), C -> C' features

from __future__ import annotations

import platform
from pathlib import Path

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
WORTHWHILE = 2**22  # products N C C' from which a layer repays the copies into and out of oneDNN's layout


class Linear(nn.Linear):
    """torch.nn.Linear, computed by oneDNN for large float32 inputs on AMD's x86 processors (twice as fast).

    The weights, values up to rounding and first derivatives are nn.Linear's; oneDNN has no second derivative:
    `with torch.backends.mkldnn.flags(enabled=False)` takes the usual path.
    """

    def forward(self, x: Tensor) -> Tensor:
        if uses_onednn(x, self):
            return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return super().forward(x)


def uses_onednn(x: Tensor, *layers: nn.Module) -> bool:
    """Whether x should pass `layers` in oneDNN's layout: plain float32 on the CPU, outside of tracing, torch.func's
    transforms and autocast, through layers that nothing has wrapped, replaced or quantised.
    """
    return (
        not torch.compiler.is_compiling()
        and AMD
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(x) is Tensor
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and all(_plain(layer, x) for layer in layers)
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
