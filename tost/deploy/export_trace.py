"""A model as a graph of torch's standard operators, the same for every size that its axes allow."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tost.deploy.export_graphs import Axis, Graph
from tost.ops import membership, recurrence


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """The graph by torch.export, which takes the operator's eager backend; ValueError where it can't be traced."""
    dims: dict[str, Any] = {}

    def size(axis: Axis) -> Any:
        base = dims.setdefault(axis.name, torch.export.Dim(axis.name, min=1, max=axis.most))
        return base if axis.step == 1 else axis.step * base

    shapes = (tuple({i: size(axis) for i, axis in axes.items()} for axes in graph.inputs.values()),)
    axes = [axis for entry in graph.inputs.values() for axis in entry.values()]
    longest = max((axis.most for axis in axes if axis.name == "tokens"), default=1)
    with torch.no_grad(), any_length(longest):
        return torch.export.export(graph.module, graph.cases[0].inputs, dynamic_shapes=shapes)


@contextmanager
def any_length(longest: int) -> Iterator[None]:
    """While a graph is traced, running sums with decay take a form that does not depend on the number of tokens.

    The usual one is in chunks, and its graph holds their number.
    """
    usual = membership.decayed_sum, recurrence.running_sum

    def decayed(x: Tensor, decay: Tensor, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return usual[0](x, decay, base) if isinstance(x.shape[1], int) else doubling_sum(x, decay, base, longest)

    def gated(x: Tensor, gate: Tensor | None = None, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if gate is None or isinstance(x.shape[1], int):
            return usual[1](x, gate, base)
        return doubling_sum(x, gate[0, 0], base, longest)  # without a mask, every token has the same

    membership.decayed_sum, recurrence.running_sum = decayed, gated  # type: ignore[assignment]
    try:
        yield
    finally:
        membership.decayed_sum, recurrence.running_sum = usual


def doubling_sum(x: Tensor, decay: Tensor, base: Tensor | None, longest: int) -> tuple[Tensor, Tensor]:
    """`tost.ops.scan.decayed_sum` of at most `longest` tokens in log2(longest) steps, in float64 throughout.

    h = (base, x_1, ..., x_N)       h_t += decay^s h_{t-s}     for s = 1, 2, 4, ...
    """
    if base is None:
        base = x.new_zeros(x.shape[0], *x.shape[2:], dtype=torch.float64)
    h = torch.cat([base.unsqueeze(1), x.double()], 1)
    weight, step = decay.double().unsqueeze(-1), 1  # [H, 1]
    while step <= longest:
        before = torch.cat([torch.zeros_like(h[:, :1]).expand(-1, step, -1, -1), h], 1)[:, : h.shape[1]]
        h, weight, step = h + weight * before, weight * weight, 2 * step
    return h[:, 1:].to(x.dtype), h[:, -1]
