"""`tost export`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any, Literal


def export(
    run: str,
    format: Literal["onnx", "executorch", "openvino", "pt2"] = "onnx",
    out: str | None = None,
    int8: bool = False,
    half: bool = False,
    opset: int | None = None,
    max_batch: int = 16,
    max_side: int = 1024,
    max_tokens: int = 256,
    images: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a model for another runtime, once that runtime has given the model's outputs on random and real inputs.

    Vision models and encoders become one graph, `model`; language models two, `prefill` (many tokens) and `decode`
    (one), with the state as inputs and outputs: what comes out goes in again with the next tokens. The folder also
    holds manifest.json (names, shapes, what was checked, preprocessing) and tokenizer.json; examples/edge has runners.

    Args:
        run: folder of a finished run, flowers or stdlib (come with the package), or a folder of save_pretrained
        format: onnx (onnxruntime and others), executorch (phones and boards, by XNNPACK), openvino (Intel and ARM) or
            pt2 (torch without this package)
        out: the folder to write (default: RUN-FORMAT here)
        int8: onnx: weights of the matrix products in eight bits; the error and the size are printed
        half: onnx: a vision model or an encoder in float16
        opset: onnx: version of the operators (default: 18)
        max_batch: most samples at once; executorch plans its memory for the largest sizes
        max_side: vision: most pixels of a side
        max_tokens: most tokens of one call; longer texts go in call by call
        images: vision: an image, or a folder of them, to check with (default: two photographs of scikit-learn's)
        overwrite: replace an export that is there
        json: print the manifest instead of sentences
    """
    from tost.deploy.export_graphs import Limits
    from tost.deploy.export_run import export_run

    if int8 and half:
        raise ValueError("--int8 and --half are two precisions; give one of them")
    folder = Path(out) if out else Path(f"{Path(run).name}-{format}{'-int8' if int8 else '-half' if half else ''}")
    manifest = export_run(
        run,
        folder,
        format,
        images=images,
        limits=Limits(max_batch, max_side, max_tokens),
        precision="int8" if int8 else "float16" if half else "float32",
        opset=opset,
        overwrite=overwrite,
    )
    print(json_module.dumps(manifest) if json else sentences(folder, manifest))


def sentences(folder: Path, manifest: dict[str, Any]) -> str:
    """What was written, and how it was checked."""
    files = list(manifest["files"])
    fixed = {name for name, axis in manifest["axes"].items() if axis["least"] == axis["most"]}
    lines = [f"{folder}  {manifest['bytes'] / 2**20:.1f} MiB, {manifest['precision']}: {', '.join(files)}"]
    for graph in manifest["graphs"]:
        sizes = {axis: None for entry in graph["inputs"] for axis in entry["shape"] if isinstance(axis, str)}
        varying = [axis for axis in sizes if axis not in fixed]
        any_size = f" (any {', '.join(varying)})" if varying else ""
        checked = graph["checked"]
        lines.append(
            f"{graph['name']}{any_size}: equals the model within {checked['difference']:.1e} of the largest number "
            f"(allowed {checked['tolerance']:.0e}) on {checked['random']} random and {checked['real']} real inputs"
        )
    return "\n".join(lines)
