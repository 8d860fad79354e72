"""Matrix products: how much of a pass they are, and a pass of ours with torch's usual ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tost.nn import linear

# kind: the names of its operations in torch's profiler begin so; the first kind that fits takes them
KINDS = {
    "convolutions": (
        "aten::mkldnn_convolution",
        "mkldnn::_convolution",
        "aten::cudnn_convolution",
        "aten::miopen_convolution",
        "aten::convolution_backward",
        "aten::_slow_conv2d",
        "aten::slow_conv",
        "aten::_conv_depthwise2d",
    ),
    "matrix products": (
        "aten::mm",
        "aten::addmm",
        "aten::_addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::mkldnn_linear",
        "mkldnn::",
    ),
    "softmax attention": (
        "aten::_scaled_dot_product",
        "aten::_flash_attention",
        "aten::_efficient_attention",
        "aten::_cudnn_attention",
    ),
    "token statistics": ("tost::",),
    "GELU": ("aten::gelu",),
    "norms": ("aten::native_layer_norm", "aten::_fused_rms_norm", "aten::native_batch_norm", "aten::cudnn_batch_norm"),
}
REST = "sums, elementwise, copies"
PRODUCTS = ("matrix products", "convolutions")  # a convolution is a matrix product by another name


def usual_products(call: Callable[[], object]) -> Callable[[], object]:
    """The call with torch's usual matrix products, as the rivals have them, where ours would take oneDNN's."""

    def run() -> object:
        chosen, linear.AMD = linear.AMD, False
        try:
            return call()
        finally:
            linear.AMD = chosen

    return run


def with_usual(calls: dict[str, Callable[[], object]], device: str) -> dict[str, Callable[[], object]]:
    """The calls, and on a processor where ours takes oneDNN's products another of "tost" without them."""
    usual = {"tost_usual": usual_products(calls["tost"])} if device == "cpu" and linear.AMD else {}
    return {**calls, **usual}


def time_by_kind(call: Callable[[], object], device: str = "cpu") -> dict[str, float]:
    """Share of a call's processor (or GPU) time for each of KINDS and the rest, by torch's profiler; it runs twice."""
    call()
    gpu = [ProfilerActivity.CUDA] if device == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as watched:
        call()
        if gpu:
            torch.cuda.synchronize()
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in watched.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA  # a kernel, counted under its operation already
        taken = 0.0 if on_gpu else event.self_device_time_total if gpu else event.self_cpu_time_total
        spent[kind_of(event.key)] += taken
    whole = sum(spent.values()) or 1.0
    return {kind: taken / whole for kind, taken in spent.items()}


def kind_of(operation: str) -> str:
    """The kind of an operation by its name in the profiler."""
    return next((kind for kind, starts in KINDS.items() if operation.startswith(starts)), REST)


def share_records(calls: dict[str, Callable[[], object]], device: str, **columns: Any) -> Iterable[dict[str, Any]]:
    """A record for each call with its shares, and the sum of PRODUCTS."""
    for name, call in calls.items():
        shares = time_by_kind(call, device)
        yield {**columns, "contestant": name, **shares, "all products": sum(shares[kind] for kind in PRODUCTS)}
