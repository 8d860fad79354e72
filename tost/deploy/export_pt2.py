"""Graphs as .pt2 files: torch's own exported programs, which need torch and nothing of this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tost.deploy.export_graphs import Graph
from tost.deploy.export_trace import trace

SUFFIX = ".pt2"


def write(graphs: list[Graph], folder: Path) -> None:
    """folder/NAME.pt2 of every graph."""
    for graph in graphs:
        torch.export.save(trace(graph), folder / (graph.name + SUFFIX))


class Reader:
    """A written graph in torch: arrays in, arrays out."""

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / (name + SUFFIX)
        try:
            self.module = torch.export.load(path).module()
        except Exception as error:  # a zip's, a JSON's, torch's own kinds
            raise ValueError(f"{path} can't be read by torch.export: {str(error).splitlines()[0]}") from None

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            out = self.module(*(torch.from_numpy(part) for part in inputs))
        return [part.numpy() for part in (out if isinstance(out, tuple) else (out,))]
