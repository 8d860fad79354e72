"""The operators in eight bits beside the float kernels on this CPU: what the gates cost where floats are at hand.

    python benchmarks/int8.py            # a table; --quick for a smaller one

Every pair takes turns; medians, and the ratio by round. The float operator reads and writes floats; the int8 one reads
float w, quantises it, and hands back bytes. Whole models have random weights: what they cost does not depend on them.
"""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from tost.bench.machine import machine
from tost.bench.measure import paired, ratio
from tost.bench.tables import header, markdown
from tost.deploy.forms import forms_of
from tost.deploy.quality import InOwnType
from tost.models import create_model
from tost.models.quantized import quantize_model
from tost.ops import TSSAState, causal_tssa, tssa
from tost.ops.int8 import Int8State, causal_tssa_int8, tssa_int8

SHAPES = {
    "full": [(1, 1024, 4, 48), (1, 4096, 8, 48), (4, 4096, 8, 48)],
    "causal": [(1, 1024, 12, 64), (4, 4096, 12, 64)],
}
DECODE = (1, 1, 12, 64)


def calls(kind: str, shape: tuple[int, int, int, int]) -> dict[str, Callable[[], object]]:
    """The two contestants on the same w."""
    w, t = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.ones(shape[2])
    B, _, H, D = shape
    if kind == "full":
        return {"float": lambda: tssa(w, t), "int8": lambda: tssa_int8(w, t)}
    if kind == "causal":
        return {"float": lambda: causal_tssa(w, t), "int8": lambda: causal_tssa_int8(w, t)}
    floats, integers = TSSAState.zeros(B, H, D), Int8State.zeros(B, H, D)
    return {
        "float": lambda: causal_tssa(w, t, state=floats, return_state=True),
        "int8": lambda: causal_tssa_int8(w, t, state=integers),
    }


def whole_models(quick: bool) -> list[list[str]]:
    """Milliseconds of an image in a vision model, in the forms of `tost quantize`, and the speed-up over float32."""
    name, side = ("tost_nano_6_p8", 64) if quick else ("tost_small_12_p16", 224)
    x, contestants = torch.randn(1, 3, side, side), {}
    for form in [*forms_of("weight", False), *forms_of("dynamic", True)[2:]]:
        torch.manual_seed(0)
        model = create_model(name, num_classes=10).eval()
        if form.linear != "none":
            quantize_model(model, form.linear, form.gates)
        fed = InOwnType(model.to(form.dtype) if form.dtype != torch.float32 else model)
        contestants[form.name] = partial(fed, x)
    times = paired(contestants, 5 if quick else 15, seconds=60)
    speed = {form: ratio(times["float32"], samples) for form, samples in times.items()}
    return [[f"{name}, {side} px, {form}", f"{1e3 * median(times[form]):.1f}", f"{speed[form]:.2f}x"] for form in times]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape of each, few rounds")
    quick = parser.parse_args().quick
    cases = [(kind, shape) for kind, shapes in SHAPES.items() for shape in (shapes[:1] if quick else shapes)]
    lines = []
    for kind, shape in [*cases, ("one token", DECODE)]:
        times = paired(calls(kind, shape), 5 if quick else 15, seconds=30)
        cells = [f"{1e3 * median(times[name]):.3f}" for name in ("float", "int8")]
        lines.append(
            [
                f"{kind}, B{shape[0]} N{shape[1]} H{shape[2]} D{shape[3]}",
                *cells,
                f"{ratio(times['int8'], times['float']):.1f}",
            ]
        )
    print(header(machine()))
    print()
    print(markdown(["operator", "float32 ms", "int8 ms", "int8 takes times as long"], lines))
    print()
    print(markdown(["one image", "ms", "speed-up"], whole_models(quick)))


if __name__ == "__main__":
    main()
