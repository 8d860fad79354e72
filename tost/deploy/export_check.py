"""How far an exported graph is from the model itself, in the runtime that will run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tost.deploy.export_graphs import Graph

# of the largest number of an output: float32 is added up in other orders; half precision rounds at 5e-4 an operation;
# eight bits lose what they lose, and what that is, is in the manifest
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "int8": 0.2}

Call = Callable[..., list[np.ndarray]]


def check(graph: Graph, call: Call, precision: str = "float32") -> dict[str, Any]:
    """What the manifest says of a check on all of the graph's cases; ValueError if it differs by more than allowed.

        difference = max |found - expected| / max |expected|, the largest over the outputs and the cases

    Raises ValueError for an output of another shape or number, a count (int64) that differs, NaN.
    """
    worst, where, tolerance = 0.0, "", TOLERANCES[precision]
    for case in graph.cases:
        with torch.no_grad():
            expected = graph.reference(*case.inputs)
        found = call(*(part.numpy() for part in case.inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        if len(found) != len(expected):
            raise ValueError(f"{graph.name}: expected {len(expected)} outputs, the runtime gave {len(found)}")
        for name, theirs, ours in zip(graph.outputs, found, expected):
            off = difference(torch.from_numpy(np.ascontiguousarray(theirs)), ours)
            if not off <= tolerance:
                size = " x ".join(map(str, case.inputs[0].shape))
                raise ValueError(
                    f"{graph.name}: output {name} differs from the model's by {off:.1e} of its largest number on "
                    f"{size} inputs, allowed is {tolerance:.0e}; nothing is written"
                )
            if off >= worst:
                worst, where = off, name
    real = sum(case.real for case in graph.cases)
    return {
        "random": len(graph.cases) - real,
        "real": real,
        "difference": float(f"{worst:.2e}"),
        "output": where,
        "tolerance": tolerance,
    }


def difference(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| / max |expected|; infinite for another shape, NaN, or counts that differ."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found.long(), expected.long()) else float("inf")
    if expected.numel() == 0:
        return 0.0
    found, expected = found.double(), expected.double()
    if not bool(found.isfinite().all()):
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
