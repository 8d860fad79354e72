"""A model as a graph of torch's standard operators, the same for every size that its axes allow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tost.deploy.export_graphs import Axis, Graph


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """The graph by torch.export, which takes the operator's eager backend; ValueError where it can't be traced."""
    dims: dict[str, Any] = {}

    def size(axis: Axis) -> Any:
        if axis.least == axis.most:
            return torch.export.Dim.STATIC
        base = dims.setdefault(axis.name, torch.export.Dim(axis.name, min=axis.least, max=axis.most))
        return base if axis.step == 1 else axis.step * base

    shapes = (tuple({i: size(axis) for i, axis in axes.items()} for axes in graph.inputs.values()),)
    with torch.no_grad(), no_switching():
        return torch.export.export(graph.module, graph.cases[0].inputs, dynamic_shapes=shapes)


@contextmanager
def no_switching() -> Iterator[None]:
    """While a graph is traced, the operators don't switch autocast off: that would become a graph of its own."""
    usual = torch.amp.is_autocast_available
    torch.amp.is_autocast_available = lambda device_type: False
    try:
        yield
    finally:
        torch.amp.is_autocast_available = usual
