"""What `tost export --format openvino` wrote, served by OpenVINO: no torch, no tost.

python run_openvino.py flowers-openvino photo.jpg               the likeliest classes
python run_openvino.py stdlib-openvino "def read_lines(" 60     60 tokens more, as they come
"""

from pathlib import Path
from typing import Any

import openvino
import serving

# By itself OpenVINO computes in bfloat16 where the processor has it: faster, and no longer what was checked.
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def open_graphs(folder: Path, told: dict[str, Any]) -> serving.Call:
    core = openvino.Core()
    graphs = {
        graph["name"]: core.compile_model(folder / f"{graph['name']}.xml", "CPU", SETTINGS) for graph in told["graphs"]
    }
    outputs = {graph["name"]: graph["outputs"] for graph in told["graphs"]}

    def call(name: str, inputs: serving.Arrays) -> serving.Arrays:
        found = graphs[name](inputs)
        return {output: found[i].copy() for i, output in enumerate(outputs[name])}

    return call


if __name__ == "__main__":
    serving.serve(open_graphs)
