"""Graphs as OpenVINO's .xml and .bin, by way of ONNX, which keeps the names of inputs and outputs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tost.deploy import export_onnx
from tost.deploy.export_graphs import Graph
from tost.extras import require

SUFFIX = ".xml"
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # by itself it computes in bfloat16 where the processor has it


def write(graphs: list[Graph], folder: Path) -> None:
    """folder/NAME.xml and NAME.bin of every graph, weights in float32."""
    openvino = require("openvino", extra="deploy")
    with tempfile.TemporaryDirectory() as between:
        export_onnx.write(graphs, Path(between))
        for graph in graphs:
            model = openvino.convert_model(Path(between) / (graph.name + export_onnx.SUFFIX))
            openvino.save_model(model, folder / (graph.name + SUFFIX), compress_to_fp16=False)


class Reader:
    """A written graph in OpenVINO on the CPU, in float32: arrays in, arrays out."""

    def __init__(self, folder: Path, name: str) -> None:
        openvino = require("openvino", extra="deploy")
        path = folder / (name + SUFFIX)
        try:
            self.compiled = openvino.Core().compile_model(path, "CPU", EXACT)
        except RuntimeError as error:
            raise ValueError(f"{path} can't be read by openvino: {str(error).strip().splitlines()[-1]}") from None

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        found = self.compiled(list(inputs))
        return [np.array(found[i]) for i in range(len(self.compiled.outputs))]
