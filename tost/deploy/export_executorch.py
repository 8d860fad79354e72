"""Graphs as the methods of one .pte file, for ExecuTorch: float32 products by XNNPACK, the rest by portable kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from tost.deploy.export_graphs import Graph
from tost.deploy.export_trace import trace
from tost.extras import require

FILE = "model.pte"
RESHAPING = {"ViewCopyConfig", "UnsqueezeCopyConfig"}  # XNNPACK's know one varying size: the portable ones take them


def write(graphs: list[Graph], folder: Path) -> None:
    """folder/model.pte with every graph as a method of its name. Memory is planned for the largest sizes."""
    exir = require("executorch.exir", extra="deploy")
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    with quietly():
        programs = {graph.name: trace(graph) for graph in graphs}
        kinds = [kind for kind in ALL_PARTITIONER_CONFIGS if kind.__name__ not in RESHAPING]
        edge = exir.to_edge_transform_and_lower(programs, partitioner=[XnnpackPartitioner(configs=kinds)])
        with open(folder / FILE, "wb") as file:
            edge.to_executorch().write_to_file(file)


class Reader:
    """A method in ExecuTorch's runtime: arrays in, arrays out."""

    def __init__(self, folder: Path, name: str) -> None:
        with quietly():
            runtime = require("executorch.runtime", extra="deploy").Runtime.get()
            try:
                self.program = runtime.load_program(folder / FILE)
                self.method = self.program.load_method(name)
            except (RuntimeError, OSError) as error:
                told = str(error).splitlines()[0]
                raise ValueError(f"{folder / FILE} can't be read by executorch: {told}") from None

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        found = self.method.execute([torch.from_numpy(np.ascontiguousarray(part)) for part in inputs])
        return [part.numpy() for part in found]


@contextmanager
def quietly() -> Iterator[None]:
    """Without executorch's notes on its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
