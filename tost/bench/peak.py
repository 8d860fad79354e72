"""Peak memory of calls: what a call needs beyond what lay there when it began (inputs, weights).

On a GPU the allocator counts. On a CPU the calls run in a process of their own, and the highest resident memory less
that before the call is the number: `python -m tost.bench.peak REQUEST` is that process.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from tost.bench.measure import Call

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Peak(NamedTuple):
    """Bytes, or None and why."""

    bytes: int | None
    note: str | None = None


def peaks(target: str, arguments: list[Any], count: int, device: str = "cpu", timeout: float = 300) -> list[Peak]:
    """Peaks of the `count` calls that `target` ("module:function", called with `arguments`) yields, one after another.

    Every call is set up between the one before and itself, so only its own tensors lie there with it.  `arguments` must
    survive JSON.
    """
    found = _gpu_peaks(target, arguments) if device == "cuda" else _child_peaks(target, arguments, timeout)
    missing = Peak(None, "not measured")
    return [*found, *([missing] * count)][:count] if count else []


def resolve(target: str) -> Any:
    """The function at "module:function"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _child_peaks(target: str, arguments: list[Any], timeout: float) -> list[Peak]:
    request = json.dumps([target, arguments, torch.get_num_threads()])
    command = [sys.executable, "-m", "tost.bench.peak", request]
    reason = None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        lines = done.stdout.split()
        if done.returncode:
            reason = "stopped, out of memory?"
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        lines = (output.decode() if isinstance(output, bytes) else output).split()
        reason = f"over {timeout:.0f} s"
    found = [Peak(int(line)) for line in lines if line.isdigit()]
    return [*found, *([Peak(None, reason)] * 1000 if reason else [])]


def _gpu_peaks(target: str, arguments: list[Any]) -> list[Peak]:
    found: list[Peak] = []
    calls = iter(resolve(target)(*arguments))
    while True:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            call = next(calls)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            torch.cuda.synchronize()
        except StopIteration:
            return found
        except torch.cuda.OutOfMemoryError:
            return [*found, *([Peak(None, "out of memory")] * 1000)]
        found.append(Peak(torch.cuda.max_memory_allocated() - before))
        del call


def child_peaks(calls: Iterable[Call]) -> Iterator[int]:
    """Peaks of calls in this process; none where the system has no way to tell."""
    if read_peak() is None:
        return
    for call in calls:
        before = settled()
        reset_peak()
        call()
        yield max(0, (read_peak() or 0) - before)
        del call


def available_bytes(device: str = "cpu") -> int | None:
    """Memory that can be had without swapping, None where the system does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return None


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


if __name__ == "__main__":
    wanted, given, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    for peak in child_peaks(resolve(wanted)(*given)):
        print(peak, flush=True)
