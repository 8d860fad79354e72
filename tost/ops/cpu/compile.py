"""Compiling the kernels, kept on disk where there is a place for it, and calling them from any thread or process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from tost.ops.cpu import causal, causal_backward, full, full_backward, schedule
from tost.ops.cpu.schedule import KERNEL_TYPE, REGION_TYPE, SMALL

# what stands for a storage type in a kernel; Numba has no half types on the CPU
TAGS: dict[torch.dtype, Any] = {
    torch.float32: np.float32(0),
    torch.float64: np.float64(0),
    torch.float16: np.uint16(0),
    torch.bfloat16: np.int16(0),
}
KERNELS: dict[str, Callable[[Any], Callable[..., None]]] = {
    "full": full.forward,
    "full backward": full_backward.backward,
    "causal": causal.forward,
    "causal backward": causal_backward.backward,
}

# Numba's cache knows a function by its own source and the values it captures, not by the functions it calls nor by
# its options: so the kernels capture this
VERSION = int.from_bytes(
    hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).digest()[:7],
    "big",
)

_compiled: dict[Any, Any] = {}
_lock = threading.RLock()
_local = threading.local()
_forked = False


def _after_fork() -> None:
    """OpenMP does not survive a fork: the child runs on one thread. A lock that another thread held stays locked."""
    global _forked, _lock
    _forked, _lock = True, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _once(key: Any, build: Callable[[], Any]) -> Any:
    """What `build` makes, made at most once."""
    made = _compiled.get(key)
    if made is None:
        with _lock:
            if key not in _compiled:
                _compiled[key] = build()
            made = _compiled[key]
    return made


def kernel(name: str, dtype: torch.dtype) -> Any:
    """The kernel for tensors of this dtype, a C function, compiled at its first use."""
    return _once(
        (name, dtype),
        lambda: _with_cache(
            lambda cache: numba.cfunc(KERNEL_TYPE, cache=cache, error_model="numpy")(
                KERNELS[name]((TAGS[dtype], VERSION))
            )
        ),
    )


def region() -> Any:
    """What a thread of torch's team does, a C function."""
    return _once(
        "region",
        lambda: _with_cache(
            lambda cache: numba.cfunc(REGION_TYPE, cache=cache, error_model="numpy")(schedule.region((True, VERSION)))
        ),
    )


def loop(pool: bool) -> Callable[[int], None]:
    """The loop over sequences and passes, on Numba's pool of threads or on torch's."""
    return _once(
        ("loop", pool),
        lambda: _with_cache(
            lambda cache: numba.njit("void(int64)", parallel=pool, cache=cache, error_model="numpy", nogil=True)(
                schedule.schedule((pool, VERSION))
            )
        ),
    )


def _team() -> tuple[int, int, int] | None:
    """Addresses of GOMP_parallel, omp_get_thread_num and omp_get_num_threads in the library that torch has loaded."""
    if sys.platform == "win32":
        return None
    loaded = ctypes.CDLL(None)
    try:
        names = (loaded.GOMP_parallel, loaded.omp_get_thread_num, loaded.omp_get_num_threads)
    except AttributeError:
        return None
    first, second, third = (ctypes.cast(name, ctypes.c_void_p).value or 0 for name in names)
    return first, second, third


TEAM = _team()
limits: Any = numba.config


def _with_cache(build: Callable[[bool], Any]) -> Any:
    try:
        return build(True)
    except RuntimeError as error:
        if "locator" not in str(error):
            raise
        return build(False)  # no place on this machine is writable


def launch(
    name: str,
    dtype: torch.dtype,
    sequences: tuple[int, int, int],
    plan: tuple[int, ...],
    words: int,
    own: tuple[int, ...],
) -> None:
    """Runs a kernel.

    sequences: their number, the rows of each, the address of their bounds (or 0).  plan: numbers a row, rows of a unit
    of work, numbers of a large sequence, passes over a shared one, first and behind the last pass over a whole one,
    numbers in all.  words: scratch of a worker.  own: the kernel's own numbers.
    """
    workers = 1 if _forked or plan[-1] < 2 * SMALL else torch.get_num_threads()
    pool = TEAM is None and workers > 1
    team = (0, 0, 0, 0)
    if pool:
        workers = min(workers, limits.NUMBA_NUM_THREADS)
        numba.set_num_threads(workers)
    elif TEAM is not None and workers > 1:
        team = (region().address, *TEAM)
    call = _call_memory(8 * words * workers)
    begin = call + 8 * CALL_SLOTS
    numbers = (*sequences, *plan[:-1], workers, 0, begin, words, kernel(name, dtype).address, *team, 0, 0, *own)
    _FORMATS[len(numbers)].pack_into(_local.memory, _local.offset, *numbers)
    run = loop(pool)
    if pool and numba.threading_layer() == "workqueue":  # it aborts the process when two threads enter it at once
        with _lock:
            run(call)
    else:
        run(call)


CALL_SLOTS = 64  # int64 numbers of a call
_FORMATS = [struct.Struct(f"{count}q") for count in range(CALL_SLOTS)]


def _call_memory(size: int) -> int:
    """Address of room for a call and `size` bytes of scratch, aligned; this thread's until it asks again."""
    if getattr(_local, "size", -1) < size:
        _local.memory = np.empty(size + 8 * CALL_SLOTS + 64, np.uint8)
        _local.offset = -_local.memory.ctypes.data % 64
        _local.address = _local.memory.ctypes.data + _local.offset
        _local.size = size
    return _local.address


def warm(dtypes: tuple[torch.dtype, ...]) -> dict[str, float]:
    """Compiles the kernels for these dtypes and the loops over threads; seconds by kernel."""
    seconds = {}
    for name in KERNELS:
        for dtype in dtypes:
            begin = time.perf_counter()
            kernel(name, dtype)
            seconds[f"{name} {str(dtype).removeprefix('torch.')}"] = time.perf_counter() - begin
    begin = time.perf_counter()
    loop(TEAM is None)
    region()
    seconds["threads"] = time.perf_counter() - begin
    return seconds
