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
        base = dims.setdefault(axis.name, torch.export.Dim(axis.name, min=axis.least, max=axis.most))
        return base if axis.step == 1 else axis.step * base

    shapes = (tuple({i: size(axis) for i, axis in axes.items()} for axes in graph.inputs.values()),)
    with torch.no_grad(), exportable():
        return torch.export.export(graph.module, graph.cases[0].inputs, dynamic_shapes=shapes)


@contextmanager
def exportable() -> Iterator[None]:
    """While a graph is traced: running sums with decay as `one_chunk`, and no switching of autocast.

    The usual sums are in chunks, whose number their graph would hold; a switch would become a graph of its own.
    """
    usual = membership.decayed_sum, recurrence.running_sum, torch.amp.is_autocast_available

    def decayed(x: Tensor, decay: Tensor, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return usual[0](x, decay, base) if isinstance(x.shape[1], int) else one_chunk(x, decay, base)

    def gated(x: Tensor, gate: Tensor | None = None, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if gate is None or isinstance(x.shape[1], int):
            return usual[1](x, gate, base)
        return one_chunk(x, gate[0, 0], base)  # without a mask, every token has the same

    membership.decayed_sum, recurrence.running_sum = decayed, gated  # type: ignore[assignment]
    torch.amp.is_autocast_available = lambda device_type: False
    try:
        yield
    finally:
        membership.decayed_sum, recurrence.running_sum, torch.amp.is_autocast_available = usual


def one_chunk(x: Tensor, decay: Tensor, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`tost.ops.scan.decayed_sum` of one call's tokens by a single triangle of powers, whatever their number.

    A call is as long as the caller makes it, so this stays linear in a stream: O(N) more products a token, N of a call.
    """
    N = x.shape[1]
    token = torch.arange(N, device=x.device)
    power = decay.double().unsqueeze(-1) ** torch.arange(N + 1, device=x.device)  # [H, N + 1]
    age = token[:, None] - token
    weights = torch.where(age >= 0, power[:, age.clamp(min=0)], 0.0).to(x.dtype)  # [H, N, N]
    local = (weights @ x.transpose(1, 2)).transpose(1, 2)
    if base is None:
        return local, local[:, -1].double()
    out = power[:, 1:].t()[:, :, None] * base.unsqueeze(1) + local
    return out.to(x.dtype), out[:, -1]
