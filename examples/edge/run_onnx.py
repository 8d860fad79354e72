"""What `tost export --format onnx` wrote, served by onnxruntime: no torch, no tost.

python run_onnx.py flowers-onnx photo.jpg               the likeliest classes
python run_onnx.py stdlib-onnx "def read_lines(" 60     60 tokens more, as they come
"""

from pathlib import Path
from typing import Any

import onnxruntime
import serving


def open_graphs(folder: Path, told: dict[str, Any]) -> serving.Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graphs = {
        graph["name"]: onnxruntime.InferenceSession(
            str(folder / f"{graph['name']}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        for graph in told["graphs"]
    }
    outputs = {graph["name"]: graph["outputs"] for graph in told["graphs"]}

    def call(name: str, inputs: serving.Arrays) -> serving.Arrays:
        return dict(zip(outputs[name], graphs[name].run(outputs[name], inputs)))

    return call


if __name__ == "__main__":
    serving.serve(open_graphs)
