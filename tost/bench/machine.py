"""The header of every measurement: what it ran on."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("tost-transformer", "torch", "numba", "numpy")
OPTIONAL = ("triton", "transformers", "fla-core", "flash-linear-attention", "mamba-ssm")


def machine(device: str = "cpu") -> dict[str, str]:
    """Processor, cores, threads, versions and allocator, as text; of "cuda" the GPU too."""
    return {
        **(gpu() if device == "cuda" else {}),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": memory(),
        "load": load(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join([*(f"{name} {installed(name)}" for name in PACKAGES), *optional()]),
        "allocator": allocator(),
    }


def gpu() -> dict[str, str]:
    """Name, capability, memory and driver of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    kind = f"HIP {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    facts = f"{properties.name}, capability {properties.major}.{properties.minor}"
    room = f"{properties.multi_processor_count} multiprocessors, {properties.total_memory / 2**30:.0f} GiB"
    return {"gpu": f"{facts}, {room}", "driver": f"{driver()}, {kind}"}


def driver() -> str:
    """The GPU driver's version, if its tool says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def optional() -> list[str]:
    """Versions of the packages that some contestants need, of those that are there."""
    found = []
    for name in OPTIONAL:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def processor() -> str:
    """The processor's name and the widest vectors it has."""
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = [line.split(":", 1)[1].strip() for line in file if line.lower().startswith("model name")]
        name = found[0] if found else name
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def load() -> str:
    """How many processes wanted a core over the last minute: times are only as good as this is below 1 or so."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    running, cores = os.getloadavg()[0], os.cpu_count() or 1
    warning = " (busy: times will be noisy)" if running > cores else ""
    return f"{running:.1f} on {cores} cores at the start{warning}"


def memory() -> str:
    """Physical memory, if the system says."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def allocator() -> str:
    """Which allocator serves torch's tensors, as far as the environment says."""
    settings = {key: os.environ[key] for key in allocator_variables() if os.environ.get(key)}
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "the system's default"


def allocator_variables() -> tuple[str, ...]:
    """Environment variables that change how memory is kept or given back."""
    return (
        "LD_PRELOAD",
        "DYLD_INSERT_LIBRARIES",
        "GLIBC_TUNABLES",
        "MALLOC_TOP_PAD_",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
    )


def installed(distribution: str) -> str:
    """The version of a distribution, or of the module of that name, or "not installed"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        pass
    try:
        return getattr(importlib.import_module(distribution), "__version__", "unknown")
    except ImportError:
        return "not installed"
