"""Peak memory of a call, measured in a process of its own: resident memory at its highest, less what was there before.

`python -m tost.bench.memory REQUEST` is that process; `peaks` starts it. What is there before is the interpreter and
torch after a tiny warm-up call, plus the case's own inputs. So the number is what a call needs beyond its inputs:
output, gradients, temporaries and scratch.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch

from tost.bench.contestants import CONTESTANTS, Case, Entry

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def peaks(name: str, cases: Sequence[Case], timeout: float = 300) -> list[int | None]:
    """Bytes beyond the inputs for each case (in rising order of size) of one contestant; None where not measured."""
    request = json.dumps([name, torch.get_num_threads(), [list(case) for case in cases]])
    command = [sys.executable, "-m", "tost.bench.memory", request]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        lines = (output.decode() if isinstance(output, bytes) else output).split()
    else:
        lines = done.stdout.split()
    found: list[int | None] = [int(line) for line in lines if line.isdigit()]
    return found + [None] * (len(cases) - len(found))


def estimate(name: str, case: Case) -> int:
    """Bytes that a call of this contestant will need, roughly: what a memory budget is compared with."""
    square = 4 * case.B * case.H * case.N**2
    if name == "softmax":
        return (4 if case.train else 2) * square + 6 * case.w_bytes
    return (16 if name in ("published", "compiled") else 8) * case.w_bytes


def available_bytes() -> int | None:
    """Memory that can be had without swapping, None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return None


def measure(name: str, cases: Sequence[Case]) -> None:
    """Print one number a line, or stop where this system has no way to tell."""
    if read_peak() is None:
        return
    for train in {case.train for case in cases}:
        for op in {case.op for case in cases}:
            Entry(name, Case(op, train, 1, 32, *cases[0][4:])).run()
    before = settled()
    for case in cases:
        entry = Entry(name, case)
        if name == "compiled":
            entry.run()  # compiling is not calling
        held = entry.cotangent.nbytes + sum(x.nbytes for x in entry.inputs)
        settled()
        reset_peak()
        entry.run()
        print(max(0, (read_peak() or 0) - before - held), flush=True)
        del entry


def settled() -> int:
    """Resident bytes now, with freed memory given back."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open("/proc/self/statm") as file:
            return PAGE * int(file.read().split()[1])
    return read_peak() or 0


def reset_peak() -> None:
    """Let the peak start again from here, where the system can (Linux); elsewhere it only rises, as the cases do."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def read_peak() -> int | None:
    """Highest resident bytes since the start or the last reset; None on systems that do not say."""
    with suppress(OSError, StopIteration), open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def saved_bytes(name: str, case: Case) -> int:
    """Bytes that the forward pass keeps for the backward beside its inputs."""
    entry = Entry(name, case)
    known = {x.untyped_storage().data_ptr() for x in entry.inputs}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = entry.function(*entry.inputs)  # kept until counted, or a freed address could be counted once for two
    del y
    return sum(kept.values())


if __name__ == "__main__":
    wanted, threads, shapes = json.loads(sys.argv[1])
    if wanted not in CONTESTANTS:
        raise SystemExit(f"unknown contestant {wanted}")
    torch.set_num_threads(threads)
    measure(wanted, [Case(*shape) for shape in shapes])
