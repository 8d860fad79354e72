"""`tost bench vision`: a whole model's forward pass beside the published one's, with the same weights."""

# B batch, N tokens

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tost.bench.files import write_json
from tost.bench.machine import machine
from tost.bench.measure import WARM_UP, paired, ratio
from tost.bench.products import usual_products
from tost.bench.published_vision import PublishedVision
from tost.bench.tables import header, markdown
from tost.models import create_model, model_config
from tost.models.official import to_official
from tost.nn import TSSA, ClassAttentionBlock, ConvPatchEmbed, Mlp
from tost.ops import which_backend

TOLERANCE = 1e-4  # of the largest logit, in float32 through a whole model


def bench_vision(
    model: str = "tost_small_12_p16",
    image_size: int = 1024,
    batch_size: int = 1,
    rounds: int = 9,
    json: Path | None = None,
) -> int:
    """Forward pass of a vision model beside the published model's with the same weights, and where the time goes.

    The logits are compared first; if they differ no speed-up is printed and the exit code is 1.

    Args:
        model: a name of `tost models`
        image_size: side of the images in pixels
        batch_size: images per forward pass
        rounds: how often each model takes its turn
        json: file for everything measured
    """
    if min(image_size, batch_size, rounds) < 1:
        raise ValueError(f"bench vision expects positive sizes, got {image_size}, {batch_size} and {rounds}")
    ours, theirs = pair(model, image_size)
    x = torch.randn(batch_size, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        error = logit_error(ours(x), theirs(x))
        if not error <= TOLERANCE:
            print(f"bench vision: logits differ by {error:.1e} of the largest, {TOLERANCE} allowed", file=sys.stderr)
            return 1
        with tqdm(total=3 * (rounds + WARM_UP), unit="pass", desc=model, leave=False) as bar:
            calls = {"published": _ticking(theirs, x, bar), "tost": _ticking(ours, x, bar)}
            calls["tost, usual products"] = usual_products(calls["tost"])
            samples = paired(calls, rounds, slow_rounds=rounds)
        shares = time_shares(ours, x)
    result = {
        "machine": machine(),
        "model": model,
        "image_size": image_size,
        "batch_size": batch_size,
        "backend": which_backend(x[:, :, None]),
        "logit_error": error,
        "ms": {name: 1e3 * median(taken) for name, taken in samples.items()},
        "speed_up": ratio(samples["published"], samples["tost"]),
        "speed_up_usual_products": ratio(samples["published"], samples["tost, usual products"]),
        "shares": shares,
    }
    if json is not None:
        write_json(result, json)
    print(report(result))
    return 0


def pair(name: str, image_size: int) -> tuple[nn.Module, nn.Module]:
    """Our model with random weights and the published one holding the same."""
    config = model_config(name)
    torch.manual_seed(0)
    ours = create_model(name, img_size=image_size).eval()
    theirs = PublishedVision(config.patch_size, config.dim, config.num_layers, config.num_heads).eval()
    theirs.load_state_dict(to_official(ours.state_dict()))
    return ours, theirs


def logit_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest logit."""
    return float((got - expected).abs().max() / expected.abs().max())


def time_shares(model: nn.Module, x: Tensor, rounds: int = 3) -> dict[str, float]:
    """Share of a forward pass that each kind of part takes; a TSSA layer is its projections and the operator."""
    kinds: dict[str, Any] = {"stem": ConvPatchEmbed, "MLP": Mlp, "class attention": ClassAttentionBlock, "layer": TSSA}
    spent = dict.fromkeys([*kinds, "projections"], 0.0)
    clocks: list[tuple[str, float]] = []

    def start(kind: str) -> Callable:
        return lambda *_: clocks.append((kind, time.perf_counter()))

    def stop(*_: Any) -> None:
        kind, started = clocks.pop()
        inside_class_attention = any(outer == "class attention" for outer, _ in clocks)
        if not inside_class_attention:
            spent[kind] += time.perf_counter() - started

    handles = []
    for module in model.modules():
        found = [(module, kind) for kind, cls in kinds.items() if isinstance(module, cls)]
        if isinstance(module, TSSA):
            found += [(module.in_proj, "projections"), (module.out_proj, "projections")]
        for watched, kind in found:
            handles += [watched.register_forward_pre_hook(start(kind)), watched.register_forward_hook(stop)]
    began = time.perf_counter()
    try:
        for _ in range(rounds):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    whole = time.perf_counter() - began
    spent["operator"] = spent.pop("layer") - spent["projections"]
    spent["norms, residuals, rest"] = whole - sum(spent.values())
    return {kind: seconds / whole for kind, seconds in spent.items()}


def report(result: dict[str, Any]) -> str:
    """Header, times and shares as Markdown."""
    ours = f"tost, {result['backend']} backend"
    labels = ("published model, eager", ours, f"{ours}, torch's usual matrix products")
    rows = [[label, f"{ms:.0f}"] for label, ms in zip(labels, result["ms"].values())]
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in result["shares"].items())
    return "\n\n".join(
        [
            header(result["machine"]),
            f"**{result['model']}**, {result['batch_size']} image(s) of {result['image_size']} px, forward, "
            f"logits agree to {result['logit_error']:.0e}",
            markdown(["", "ms"], rows),
            f"speed-up {result['speed_up']:.2f}x, with the usual matrix products "
            f"{result['speed_up_usual_products']:.2f}x; our time goes to: {shares}",
        ]
    )


def _ticking(model: nn.Module, x: Tensor, bar: Any) -> Callable[[], object]:
    def run() -> object:
        y = model(x)
        bar.update()
        return y

    return run
