"""`tost doctor`: what this machine has, which backends work here, and what would make them faster."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import torch

from tost.bench.machine import allocator_variables, driver, installed, machine
from tost.ops import BACKENDS, causal_tssa, tssa, which_backend

NOT_ASKED = ("all", "dev", "docs", "test")  # extras of whoever works on the package, and sums of others
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY")
KEEP_PAGES = {  # bytes
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
CLONE = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
w = torch.randn(2, 8192, 12, 64)
samples = []
for _ in range(9):
    start = time.perf_counter()
    w.clone()
    samples.append(time.perf_counter() - start)
print(sorted(samples[2:])[3])
"""


def doctor(warm: bool = True) -> None:
    """Show versions, backends, threads, caches, compiler and GPU, and what keeping memory pages would bring here.

    Args:
        warm: compile the cpu backend's kernels now, so that no later call waits for it
    """
    sections: dict[str, Iterable[str]] = {
        "machine": (f"{name}: {value}" for name, value in machine().items()),
        "optional packages": optional_packages(),
        "kernels of the cpu backend": kernels(warm),
        "backends": backends(),
        "threads": threads(),
        "memory allocator": allocators(),
        "torch.compile": [compiler()],
        "gpu": gpus(),
    }
    for title, lines in sections.items():
        print(title, flush=True)
        for line in lines:
            print(f"  {line}", flush=True)


def optional_packages() -> Iterator[str]:
    """What each extra brings, and what of it is missing."""
    try:
        told = requires("tost-transformer") or []
    except PackageNotFoundError:
        yield "unknown: this copy of tost is not installed (pip install -e .)"
        return
    for extra, names in extras(told).items():
        versions = {name: installed(name) for name in names}
        shown = ", ".join(f"{name} {version}" for name, version in versions.items())
        missing = "not installed" in versions.values()
        yield f"{extra}: {shown}" + (f"  (pip install 'tost-transformer[{extra}]')" if missing else "")


def extras(requirements: Iterable[str]) -> dict[str, list[str]]:
    """The packages of each extra, from a distribution's own list: 'av>=14; extra == "video"'."""
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        match = re.match(r"""([\w.-]+).*extra == ['"]([\w-]+)['"]""", requirement)
        if match and match[2] not in NOT_ASKED:
            found.setdefault(match[2], []).append(match[1])
    return found


def backends() -> Iterator[str]:
    """Each backend: ready, or why it declines; whether it computes what the reference does."""
    w = torch.randn(2, 33, 3, 8, generator=torch.Generator().manual_seed(0))
    temperature = torch.ones(3)
    for name in BACKENDS:
        x, t = (w.cuda(), temperature.cuda()) if name == "triton" and torch.cuda.is_available() else (w, temperature)
        try:
            which_backend(x, name)
        except ValueError as declined:
            yield f"{name}: {declined}"
            continue
        if name == "reference":
            yield "reference: ready, the definition that the others are compared with"
            continue
        operators: tuple[Any, ...] = (tssa, causal_tssa)
        error = max(
            float((call(x, t, backend=name).cpu() - call(w, temperature, backend="reference")).abs().max())
            for call in operators
        )
        yield f"{name}: ready, {error:.0e} from the reference" + ("" if error < 1e-5 else "  <- wrong results")
    yield f"chosen for float32 tensors on the CPU: {which_backend(w)}"


def threads() -> Iterator[str]:
    """How many threads the operators use, and whose."""
    yield f"torch: {torch.get_num_threads()} (torch.set_num_threads or OMP_NUM_THREADS changes it)"
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    more = "  <- more threads than cores: they wait for each other" if torch.get_num_threads() > allowed else ""
    yield f"cores that this process may use: {allowed} of {os.cpu_count()}{more}"
    told = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    yield f"environment: {', '.join(told) or 'says nothing about threads'}"
    compiled = importlib.import_module("tost.ops.cpu.compile")
    if compiled.TEAM is not None:
        yield "cpu backend: torch's own OpenMP threads"
    else:
        most = compiled.limits.NUMBA_NUM_THREADS
        yield f"cpu backend: Numba's pool of up to {most}, as many as torch (no OpenMP of torch's found)"


def kernels(warm: bool) -> Iterator[str]:
    """Where compiled kernels are kept, and how long getting them ready took."""
    if not warm:
        yield "not looked at (--warm false)"
        return
    from tost.ops.cpu import compile
    from tost.ops.cpu import warm as make_ready

    started = time.perf_counter()
    make_ready()
    yield f"ready after {time.perf_counter() - started:.1f} s"
    dispatcher: Any = compile.loop(False)
    folder = dispatcher.stats.cache_path
    yield f"kept in {folder}" if folder else "kept nowhere: set NUMBA_CACHE_DIR to a folder that can be written"


def allocators() -> Iterator[str]:
    """What an allocator that keeps pages brings: copying a 50 MB tensor, by default and with pages kept."""
    yield f"now: {machine()['allocator']}"
    plain = {key: value for key, value in os.environ.items() if key not in allocator_variables()}
    default = clone_seconds(plain)
    choices = {}
    if sys.platform == "linux":
        choices[" ".join(f"{key}={value}" for key, value in KEEP_PAGES.items())] = plain | KEEP_PAGES
        jemalloc = find_jemalloc()
        if jemalloc:
            keep = "background_thread:false,dirty_decay_ms:-1,muzzy_decay_ms:-1"
            choices[f"LD_PRELOAD={jemalloc} MALLOC_CONF={keep}"] = plain | {"LD_PRELOAD": jemalloc, "MALLOC_CONF": keep}
    if default is None:
        yield "could not be measured"
        return
    yield f"a clone of 50 MB takes {1e3 * default:.1f} ms by default"
    for setting, environment in choices.items():
        seconds = clone_seconds(environment)
        if seconds is not None:
            yield f"{1e3 * seconds:.1f} ms ({default / seconds:.1f}x) with {setting}"


def clone_seconds(environment: dict[str, str]) -> float | None:
    """Median seconds of `w.clone()` in a process with that environment, None if it failed."""
    command = [sys.executable, "-c", CLONE, str(torch.get_num_threads())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return float(done.stdout)
    except ValueError:
        return None


def find_jemalloc() -> str | None:
    """The library's path, if it is where Linux systems put it."""
    found = [
        str(path)
        for pattern in ("lib*/*/libjemalloc.so.2", "lib*/libjemalloc.so.2")
        for root in ("/usr", "/usr/local")
        for path in Path(root).glob(pattern)
    ]
    return found[0] if found else None


def compiler() -> str:
    """Whether torch.compile finds the C++ compiler it needs for the CPU."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    return f"C++ compiler {found}" if found else "no C++ compiler, so none on the CPU (nothing here needs it)"


def gpus() -> Iterator[str]:
    """The CUDA (or ROCm) devices torch sees, and why there are none."""
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = f"this torch is built for {built}, and no device or driver answers" if built else "this torch has no CUDA"
        yield f"none that this torch can use ({why}); the cpu backend computes"
        return
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        told = f"capability {properties.major}.{properties.minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        half = "" if torch.cuda.is_bf16_supported(including_emulation=False) else ", no bfloat16: use float16"
        yield f"{i}: {properties.name}, {told}{half}"
    yield f"driver {driver()}"
