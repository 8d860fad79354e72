"""Models for other runtimes: traced, written, run there, compared with the model, and only then given their name."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from tost.deploy.export_check import check
from tost.deploy.export_graphs import Graph, Limits, graph_of
from tost.extras import require
from tost.files import atomic_write, sync_folder

FORMATS = ("onnx", "executorch", "openvino", "pt2")
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "executorch": ("executorch",),
    "pt2": (),
}
MANIFEST, LIMITS = "manifest.json", Limits()


def export_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    format: str = "onnx",
    *,
    limits: Limits = LIMITS,
    precision: str = "float32",
    opset: int | None = None,
    real: Sequence[Tensor] = (),
    files: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `model` to `folder` for another runtime, if what that runtime computes is what the model computes.

    model: ToSTVision, ToST, ToSTSequence, TSSA2d (one graph, `model`) or ToSTForCausalLM (`prefill` and `decode`).
    format: onnx, executorch, openvino or pt2.  precision: float32; float16 or int8 (weights) of onnx alone.
    limits: the largest sizes.  opset: of onnx.  real: inputs from the world to check with, besides random ones.
    files: name -> text of files to lie beside the graphs.  facts: what the manifest says besides.
    Returns what is written to manifest.json. Raises ValueError, and writes nothing, if a runtime's output differs, a
    format, precision or opset is unknown, or the folder is there; ImportError if the format's package is missing.
    """
    target, options = Path(folder), _options(format, precision, opset)
    for package in PACKAGES[format]:
        require(package, extra="deploy")
    if target.exists() and not (overwrite and (target / MANIFEST).is_file()):
        way = "give --overwrite" if (target / MANIFEST).is_file() else "choose another"
        raise ValueError(f"export writes a new folder, and {target} is there; {way}")
    graphs = _graphs(model, limits, precision == "float16", real)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    temporary.mkdir(parents=True)
    try:
        told = _write(graphs, temporary, format, precision, options)
        manifest = {"format": format, "model": type(model).__name__, "precision": precision, **(facts or {}), **told}
        manifest["limits"] = asdict(limits)
        manifest["versions"] = _versions(format)
        for name, text in (files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        manifest["files"] = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        with atomic_write(temporary / MANIFEST, "w") as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
        _move(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


class Exported:
    """A folder that export_model wrote, in its runtime: exported.call("model", images) -> arrays.

    manifest: what is in it.  Raises ValueError for a folder that is none, or whose files are not whole.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            sums = dict(self.manifest["files"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{folder} is no folder that `tost export` wrote: it has no whole {MANIFEST}") from None
        for name, known in sums.items():
            if not (self.folder / name).is_file() or _sha256(self.folder / name) != known:
                raise ValueError(f"{self.folder / name} is missing or damaged; export the model again")
        module = _format(self.manifest["format"])
        self.graphs = {graph["name"]: module.Reader(self.folder, graph["name"]) for graph in self.manifest["graphs"]}

    def call(self, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of one graph, in the manifest's order."""
        return self.graphs[name](*inputs)


def _options(format: str, precision: str, opset: int | None) -> dict[str, Any]:
    """What the format's writer is told; ValueError for what it can't do."""
    if format not in FORMATS:
        raise ValueError(f"--format is one of {', '.join(FORMATS)}, got {format!r}")
    if precision not in ("float32", "float16", "int8"):
        raise ValueError(f"export writes float32, float16 or int8, got {precision!r}")
    if format != "onnx" and precision != "float32":
        raise ValueError(f"{precision} is written for onnx alone, got {format}; leave it out")
    if format != "onnx":
        if opset is not None:
            raise ValueError(f"--opset is of onnx alone, got {format}; leave it out")
        return {}
    from tost.deploy.export_onnx import OPSETS, check_opset

    check_opset(OPSETS[0] if opset is None else opset)
    return {"opset": OPSETS[0] if opset is None else opset, "int8": precision == "int8"}


def _graphs(model: nn.Module, limits: Limits, half: bool, real: Sequence[Tensor]) -> list[Graph]:
    if type(model).__name__ != "ToSTForCausalLM":
        return [graph_of(model, limits, half, tuple(real))]
    from tost.deploy.export_language import language_graphs

    if half:
        raise ValueError("float16 is of models without a state, got a language model; its state is float64")
    return language_graphs(model, limits, real)  # type: ignore[arg-type]


def _write(graphs: list[Graph], folder: Path, format: str, precision: str, options: dict[str, Any]) -> dict[str, Any]:
    """Write and check all graphs; what the manifest says of them."""
    module, told = _format(format), []
    with tqdm(total=1 + len(graphs), desc=f"{format}: trace and write", leave=False, disable=None) as bar:
        module.write(graphs, folder, **options)
        bar.update()
        for graph in graphs:
            bar.set_description(f"{format}: check {graph.name}")
            checked = check(graph, module.Reader(folder, graph.name), precision)
            told.append({"name": graph.name, "inputs": _inputs(graph), "outputs": graph.outputs, "checked": checked})
            bar.update()
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "graphs": told,
        "axes": _axes(graphs),
        "bytes": size,
        **graphs[0].facts,
        **({"opset": options["opset"]} if options else {}),
    }


def _inputs(graph: Graph) -> list[dict[str, Any]]:
    """Name, type and shape of every input; a size that may vary is the name of its axis."""
    entries: list[dict[str, Any]] = []
    for (name, axes), part in zip(graph.inputs.items(), graph.cases[0].inputs):
        shape = [axes[i].name if i in axes else size for i, size in enumerate(part.shape)]
        entries.append({"name": name, "dtype": str(part.dtype).removeprefix("torch."), "shape": shape})
    return entries


def _axes(graphs: list[Graph]) -> dict[str, dict[str, int]]:
    """What every axis may be: from least to most, in steps."""
    axes = [axis for graph in graphs for entry in graph.inputs.values() for axis in entry.values()]
    return {a.name: {"least": a.least * a.step, "most": a.most * a.step, "step": a.step} for a in axes}


def _format(name: str) -> Any:
    return importlib.import_module(f"tost.deploy.export_{name}")


def _versions(format: str) -> dict[str, str]:
    found = {"tost": "tost-transformer", "torch": "torch", **{name: name for name in PACKAGES[format]}}
    told = {}
    for name, distribution in found.items():
        with suppress(PackageNotFoundError):
            told[name] = version(distribution)
    return told


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    """Python 3.10's."""
    total = hashlib.sha256()
    for block in iter(lambda: file.read(2**20), b""):
        total.update(block)
    return total.hexdigest()


def _move(temporary: Path, target: Path) -> None:
    """Give the finished folder its name; an older export of that name goes first."""
    for path in temporary.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
        os.replace(target, old)
    os.replace(temporary, target)
    sync_folder(target.parent)
    if old is not None:
        shutil.rmtree(old)
