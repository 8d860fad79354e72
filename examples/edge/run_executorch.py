"""What `tost export --format executorch` wrote, served by ExecuTorch's Python runtime.

    python run_executorch.py flowers-executorch photo.jpg               the likeliest classes
    python run_executorch.py stdlib-executorch "def read_lines(" 60     60 tokens more, as they come

This wheel brings torch and takes torch's tensors, so nothing more is asked of torch than to wrap arrays. On a board the
same file is loaded by the C++ runtime, which needs neither torch nor Python.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import serving
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the interface calls itself experimental
    from executorch.runtime import Runtime


def open_graphs(folder: Path, told: dict[str, Any]) -> serving.Call:
    program = Runtime.get().load_program(folder / "model.pte")
    graphs = {graph["name"]: program.load_method(graph["name"]) for graph in told["graphs"]}
    order = {graph["name"]: [entry["name"] for entry in graph["inputs"]] for graph in told["graphs"]}
    outputs = {graph["name"]: graph["outputs"] for graph in told["graphs"]}

    def call(name: str, inputs: serving.Arrays) -> serving.Arrays:
        given = [torch.from_numpy(np.ascontiguousarray(inputs[key])) for key in order[name]]
        return {key: part.numpy() for key, part in zip(outputs[name], graphs[name].execute(given))}

    return call


if __name__ == "__main__":
    serving.serve(open_graphs)
