"""ToST on a small device, beside a ViT and a GPT-2 of the same size: `python -m benchmarks.edge`.

One thread, 512 MiB of address space for everything (benchmarks/edge_child.py), onnxruntime or OpenVINO; all models are
exported the same way, by tost.deploy, with random weights: times don't depend on them. Each is checked against the
model in torch before it is timed.
"""

# B batch, N tokens, T tokens before, H heads, D features per head

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor, nn
from tqdm import tqdm

from tost.bench.machine import load, processor
from tost.deploy import export_onnx, export_openvino
from tost.deploy.export_check import check
from tost.deploy.export_graphs import Axis, Case, Graph, Limits, graph_of
from tost.deploy.export_language import Inputs, language_graphs
from tost.models import create_model
from tost.models.language import ToSTForCausalLM, preset

WRITERS: dict[str, Any] = {"onnx": export_onnx, "openvino": export_openvino}
CHILD = Path(__file__).with_name("edge_child.py")
VISION, TEXT = "tost_tiny_12_p16", "tiny"


class CachedSoftmax(nn.Module):
    """GPT-2's step: (token [B, 1], keys and values [B, T, H, D] of every layer) -> (logits [B, V], those of T + 1)."""

    def __init__(self, model: ToSTForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        body: Any = self.model.model
        x, kept = body.embedding(token), []
        for i, block in enumerate(body.blocks):
            mixer = block.mixer
            (q, k, v), gate = mixer.readout.split(mixer.in_proj(block.norm1(x)))
            k, v = torch.cat([past[2 * i], k], 1), torch.cat([past[2 * i + 1], v], 1)
            kept += [k, v]
            y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
            x = x + mixer.out_proj(mixer.readout(y, gate))
            x = x + block.mlp(block.norm2(x))
        return self.model.lm_head(body.norm(x))[:, 0], *kept


def vision_graph(mixer: str, side: int) -> Graph:
    """Images of up to side x side pixels, through token statistics or softmax attention."""
    torch.manual_seed(0)
    graph = graph_of(create_model(VISION, mixer=mixer).eval(), Limits(side=side))
    graph.name = f"vision-{mixer}"
    return graph


def text_graph(mixer: str) -> Graph:
    """One token after a state of constant size, or after keys and values."""
    torch.manual_seed(0)
    config = preset(TEXT, mixer=mixer, position_mode="none", layer_scale_init=1.0, vocab_size=8192)
    model = ToSTForCausalLM(config).eval().requires_grad_(False)
    if mixer == "tssa":
        graph = language_graphs(model, Limits())[1]
    else:
        H, L = config.num_attention_heads, config.num_hidden_layers
        shape, chance = (2, 5, H, config.hidden_size // H), torch.Generator().manual_seed(0)
        names = [f"{part}{i}" for i in range(L) for part in ("keys", "values")]
        axes = {0: Axis("batch", 16), 1: Axis("context", 2**17)}
        past = [torch.randn(shape, generator=chance) for _ in names]
        inputs = {"tokens": {0: axes[0]}, **dict.fromkeys(names, axes)}
        step = CachedSoftmax(model)
        case = Case((torch.tensor([[1], [2]]), *past))
        graph = Graph("", Inputs(step), step, inputs, ["logits", *(f"next.{n}" for n in names)], [case])  # type: ignore
    graph.name = f"text-{mixer}"
    return graph


def shapes_of(graph: Graph, sizes: dict[str, int]) -> dict[str, Any]:
    """name -> [dtype, sizes] of a graph's inputs, its axes as `sizes` says."""
    told = {}
    for (name, axes), part in zip(graph.inputs.items(), graph.cases[0].inputs):
        shape = [sizes[axes[i].name] if i in axes else n for i, n in enumerate(part.shape)]
        told[name] = [str(part.dtype).removeprefix("torch."), shape]
    return told


def timed(runtime: str, path: Path, shapes: dict[str, Any], megabytes: int, rounds: int) -> dict[str, Any]:
    """What a child process measured; what stopped it otherwise."""
    command = [sys.executable, str(CHILD), runtime, str(path), json.dumps(shapes), str(megabytes), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"died with {done.returncode}: {done.stderr.strip()[-200:]}"}


def edge(
    runtime: Literal["onnx", "openvino"] = "onnx",
    megabytes: int = 512,
    sides: list[int] = [224, 448, 896, 1344, 1792],  # noqa: B006
    contexts: list[int] = [256, 1024, 4096, 16384, 65536],  # noqa: B006
    rounds: int = 5,
    out: str | None = None,
) -> None:
    """Print one table: milliseconds by resolution and by token, and where a model does not fit.

    Args:
        runtime: onnx (onnxruntime) or openvino
        megabytes: the limit, 0 for none
        sides: pixels of a side
        contexts: tokens before the one that is timed
        rounds: calls timed, of which the median counts
        out: a CSV to write as well
    """
    rows = []
    graphs = [(vision_graph(mixer, max(sides)), "side", sides) for mixer in ("tssa", "softmax")]
    graphs += [(text_graph(mixer), "context", contexts) for mixer in ("tssa", "softmax")]
    with tempfile.TemporaryDirectory() as folder, tqdm(total=sum(len(s) for _, _, s in graphs), disable=None) as bar:
        for graph, axis, sizes in graphs:
            bar.set_description(graph.name)
            writer = WRITERS[runtime]
            writer.write([graph], Path(folder))
            check(graph, writer.Reader(Path(folder), graph.name))
            for size in sizes:
                shapes = shapes_of(graph, {"batch": 1, "height": size, "width": size, "context": size})
                found = timed(runtime, Path(folder) / (graph.name + writer.SUFFIX), shapes, megabytes, rounds)
                rows.append({"model": graph.name, "axis": axis, "size": size, **found})
                bar.update()
    print(f"{processor()}, one thread, {megabytes} MiB, {runtime}, load {load()}")
    for row in rows:
        told = f"{row['ms']:9.1f} ms {row['mib']:6.0f} MiB" if "ms" in row else f"   -      {row['error'][:90]}"
        print(f"{row['model']:<15} {row['axis']:>7} {row['size']:>6}  {told}")
    if out:
        with open(out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["model", "axis", "size", "ms", "mib", "error"])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    auto_cli(edge, as_positional=False)
