"""Compiles every Triton kernel for GPUs that need not be here: `python -m tests.ops.triton_compile cuda:90 hip:gfx942`.

A call of each operator is made on CPU tensors, its launches are noted instead of done, and the compiler then gets what
was noted. Prints a JSON object a kernel: registers a thread, bytes spilled, whether 16 bytes are read at once (NVIDIA).
"""

# B batch, N tokens, H heads, D features per head

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.ops.common import make_inputs, make_state
from tost.ops.triton import causal, causal_backward, full, full_backward, settings

TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
SHAPES = {"small": (2, 4096, 8, 48), "base": (2, 4096, 12, 64)}


def launches(shape, dtype, everything):
    """(kernel, arguments by name, options) of all kernels, with masks, packing, bias, decay and state or without."""
    noted = []

    def note(self, *args, grid, warmup, **kwargs):
        arguments = dict(zip(self.arg_names, args)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        noted.append((self, arguments, {k: v for k, v in kwargs.items() if k not in self.arg_names}))

    triton.runtime.JITFunction.run = note
    B, N, H, D = shape = (1, *shape[1:]) if everything else shape
    w, t, g = make_inputs(shape, dtype)
    mask = torch.ones(B, N, dtype=torch.bool) if everything else None
    packed = torch.tensor([0, 1000, N]) if everything else None
    outputs = full.full(w, t, mask, packed)
    full_backward.full_backward(g, w, t, mask, packed, *outputs[1:])
    bias, decay = (torch.zeros(1, N, H), torch.full((H,), 0.9)) if everything else (None, None)
    state = make_state(2, H, D)[:3] if everything else (None,) * 3
    inputs = (w, t, bias, decay, mask, packed, *state)
    for one_launch in (0, N):
        settings.ONE_LAUNCH = one_launch
        found = causal.causal(*inputs, True)
    causal_backward.causal_backward(g, *found[1:4], *inputs, *found[4:], everything)
    return noted


def compile_launch(kernel, arguments, options, target):
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(place,)] = "constexpr", value
            continue
        signature[parameter.name] = f"*{TYPES[value.dtype]}" if torch.is_tensor(value) else "i32"
        if torch.is_tensor(value) or value % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options)


def resources(compiled):
    """Registers a thread and bytes spilled of a CUDA kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {
        key: int(re.search(rf"{name}:(\d+)", said)[1]) for key, name in (("registers", "REG"), ("spilled", "STACK"))
    }


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=["cuda:90"])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args(arguments)
    for name in options.shapes:
        compile_all(name, options.targets)


def compile_all(name, targets):
    for dtype, everything in product((torch.bfloat16, torch.float32), (False, True)):
        for kernel, arguments, options in launches(SHAPES[name], dtype, everything):
            for target in targets:
                backend, arch = target.split(":")
                gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, 32 if backend == "cuda" else 64)
                compiled = compile_launch(kernel, arguments, options, gpu)
                row = {"kernel": f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}", "target": target}
                row |= {"shape": name, "dtype": TYPES[dtype], "everything": everything}
                row |= {"warps": options["num_warps"], "shared": compiled.metadata.shared}
                if backend == "cuda":
                    row |= resources(compiled)
                    row["wide"] = bool(re.search(r"ld\.global\S*\.v4\.b32", compiled.asm["ptx"]))
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
