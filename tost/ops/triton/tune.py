"""`python -m tost.ops.triton.tune`: which block sizes and warps are fastest on this GPU, kept for later runs."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm

from tost.files import atomic_write
from tost.ops.api import causal_tssa, tssa
from tost.ops.triton import settings

# of the kernels that take most of the time: which call runs them, and what may differ
KERNELS = {
    "full energy": ("full", ("ROWS", "num_warps")),
    "full membership": ("full", ("ROWS", "num_warps")),
    "full output": ("full", ("ROWS", "num_warps")),
    "full gated": ("full backward", ("ROWS", "num_warps")),
    "full couple": ("full backward", ("ROWS", "num_warps")),
    "full gradient": ("full backward", ("ROWS", "num_warps")),
    "causal energy": ("causal", ("num_warps",)),
    "causal membership": ("causal", ("num_warps",)),
    "causal output": ("causal", ("ROWS",)),
    "causal sequence": ("step", ("num_warps",)),
    "causal couple": ("causal backward", ("num_warps",)),
    "causal gradient": ("causal backward", ("ROWS",)),
}


def tune(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, int]]:
    """The fastest settings of every kernel for this w [B, N, H, D], one kernel after another."""
    from triton.testing import do_bench

    w = torch.randn(shape, device=device, dtype=dtype)
    calls = _calls(w)
    found: dict[str, dict[str, int]] = {}
    for kernel, (call, options) in tqdm(KERNELS.items(), desc=settings.key("kernels", w), leave=False):
        times: dict[tuple[tuple[str, int], ...], float] = {}
        for choice in candidates(options):
            settings.tried[settings.key(kernel, w)] = choice
            try:
                times[tuple(choice.items())] = do_bench(calls[call], warmup=5, rep=20, return_mode="median")
            except Exception as error:  # a block that this GPU has no room for is not a candidate
                print(f"{kernel} {choice}: {type(error).__name__}", file=sys.stderr)
        best = dict(min(times.items(), key=lambda item: item[1])[0]) if times else {}
        settings.tried[settings.key(kernel, w)] = best
        found[settings.key(kernel, w)] = best
    settings.tried.clear()
    return found


def candidates(options: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """All choices of these settings."""
    for values in product(*(settings.TUNABLE[option] for option in options)):
        yield dict(zip(options, values))


def _calls(w: Tensor) -> dict[str, Callable[[], object]]:
    temperature = torch.ones(w.shape[2], device=w.device)
    leaf, g, one = w.clone().requires_grad_(), torch.randn_like(w), w[:, :1].contiguous()
    _, state = causal_tssa(one, temperature, return_state=True, backend="triton")

    def backward(op: Callable[..., Tensor]) -> Callable[[], object]:
        y = op(leaf, temperature, backend="triton")
        return lambda: torch.autograd.grad(y, leaf, g, retain_graph=True)

    return {
        "full": lambda: tssa(w, temperature, backend="triton"),
        "causal": lambda: causal_tssa(w, temperature, backend="triton"),
        "step": lambda: causal_tssa(one, temperature, state=state, return_state=True, backend="triton"),
        "full backward": backward(tssa),
        "causal backward": backward(causal_tssa),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tost.ops.triton.tune", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["8,4096,8,48", "8,4096,12,64"], help="B,N,H,D, several")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], help="such as bfloat16 float32")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("tune: no GPU here; the kernels keep the settings of their rule", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    file = settings.tuned_file(device)
    found = dict(settings.tuned(file))
    for shape, dtype in product(options.shapes, options.dtypes):
        B, N, H, D = map(int, shape.split(","))
        found |= tune((B, N, H, D), getattr(torch, dtype), device)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, "w") as stream:
            json.dump(found, stream, indent=1)
    print(f"{len(found)} settings in {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
