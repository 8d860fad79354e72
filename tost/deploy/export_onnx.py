"""Graphs as .onnx files, for onnxruntime and whatever else reads them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tost.deploy.export_graphs import Graph
from tost.deploy.export_trace import trace
from tost.extras import require

OPSETS = range(18, 24)  # torch writes 18 without a conversion; onnxruntime must know the newest
SUFFIX = ".onnx"


def needed(int8: bool = False) -> list[str]:
    """Packages without which this format can't be written and checked."""
    return ["onnx", "onnxscript", "onnxruntime"]


def check_opset(opset: int) -> None:
    """ValueError for an opset that torch doesn't write or onnxruntime doesn't read."""
    if opset not in OPSETS:
        raise ValueError(f"--opset is {OPSETS[0]} to {OPSETS[-1]}, got {opset}; leave it out for {OPSETS[0]}")


def write(graphs: list[Graph], folder: Path, opset: int = OPSETS[0], int8: bool = False) -> None:
    """folder/NAME.onnx of every graph; int8: the weights of its matrix products in eight bits, by onnxruntime."""
    for package in needed():
        require(package, extra="deploy")
    check_opset(opset)
    for graph in graphs:
        path = folder / (graph.name + SUFFIX)
        with quietly():
            program: Any = torch.onnx.export(
                trace(graph),
                input_names=list(graph.inputs),
                output_names=graph.outputs,
                opset_version=opset,
                verbose=False,
            )
            program.save(path)
            if int8:
                quantise(path)


def quantise(path: Path) -> None:
    """The weights of a file's matrix products as int8 by output feature, its activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_dynamic(
        prepared, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"]
    )
    prepared.unlink()


class Reader:
    """A written graph in onnxruntime: arrays in, arrays out."""

    def __init__(self, folder: Path, name: str) -> None:
        runtime = require("onnxruntime", extra="deploy")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        path = folder / (name + SUFFIX)
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds
            raise ValueError(f"{path} can't be read by onnxruntime: {str(error).splitlines()[0]}") from None
        self.names = [entry.name for entry in self.session.get_inputs()]

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, dict(zip(self.names, inputs)))


@contextmanager
def quietly() -> Iterator[None]:
    """Without the exporters' advice to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
