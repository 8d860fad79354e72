"""Matrix products: how much of a pass they are, and a pass of ours with torch's usual ones."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from tost.nn import linear

# kind: the names of its operations in torch's profiler begin so; the first kind that fits takes them
KINDS = {
    "matrix products": (
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::mkldnn_linear",
        "mkldnn::",
    ),
    "softmax attention": ("aten::_scaled_dot_product",),
    "fused token statistics": ("tost::",),
    "GELU": ("aten::gelu",),
    "norms": ("aten::native_layer_norm", "aten::_fused_rms_norm"),
}
REST = "sums, elementwise, copies"


def usual_products(call: Callable[[], object]) -> Callable[[], object]:
    """The call with torch's usual matrix products, as the rivals have them, where ours would take oneDNN's."""

    def run() -> object:
        chosen, linear.AMD = linear.AMD, False
        try:
            return call()
        finally:
            linear.AMD = chosen

    return run


def time_by_kind(call: Callable[[], object]) -> dict[str, float]:
    """Share of a call's processor time for each of KINDS and the rest, by torch's profiler; the call is run twice."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        call()
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in watched.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: taken / whole for kind, taken in spent.items()}


def kind_of(operation: str) -> str:
    """The kind of an operation by its name in the profiler."""
    return next((kind for kind, starts in KINDS.items() if operation.startswith(starts)), REST)
