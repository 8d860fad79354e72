"""Compiling the kernels, kept on disk where there is a place for it, and calling them from any thread or process."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from tost.ops.cpu import causal, causal_backward, full, full_backward
from tost.ops.cpu.schedule import SIGNATURE, SMALL, schedule

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

# Numba's cache knows a function by its own source and the values it captures, not by the functions it calls and not by its
# options: so the kernels capture this
VERSION = int.from_bytes(
    hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).digest()[:7], "big"
)

_compiled: dict[Any, Any] = {}
_lock = threading.RLock()
_local = threading.local()
_forked = False


def _after_fork() -> None:
    """OpenMP does not survive a fork: the child runs on one thread. A lock held by another thread stays locked: a new one."""
    global _forked, _lock
    _forked, _lock = True, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kernel(name: str, dtype: torch.dtype) -> int:
    """Address of the kernel for tensors of this dtype, compiled at its first use."""
    address = _compiled.get((name, dtype))
    if address is None:
        with _lock:
            if (name, dtype) not in _compiled:
                function = KERNELS[name]((TAGS[dtype], VERSION))
                entry = _with_cache(lambda cache: numba.cfunc(SIGNATURE, cache=cache, error_model="numpy")(function))
                _compiled[name, dtype, "keep alive"] = entry
                _compiled[name, dtype] = entry.address
            address = _compiled[name, dtype]
    return address


def scheduler(parallel: bool) -> Callable[[int, int], None]:
    """The loop over sequences and threads."""
    loop = _compiled.get(parallel)
    if loop is None:
        with _lock:
            loop = _with_cache(
                lambda cache: numba.njit(
                    "void(int64, int64)", parallel=parallel, cache=cache, error_model="numpy", nogil=True
                )(schedule((parallel, VERSION)))
            )
            _compiled[parallel] = loop
    return loop


def _with_cache(build: Callable[[bool], Any]) -> Any:
    try:
        return build(True)
    except RuntimeError as error:
        if "locator" not in str(error):
            raise
        return build(False)  # no place on this machine is writable


def launch(name: str, dtype: torch.dtype, sequences: tuple[int, int, int], plan: tuple[int, ...], words: int, own: tuple[int, ...]) -> None:
    """Runs a kernel. sequences: their number, the rows of each, the address of their bounds (or 0). plan: numbers a row,
    rows of a unit of work, passes over a shared sequence, first and behind the last pass over a whole one, numbers in all.
    own: the kernel's own numbers."""
    address, loop = kernel(name, dtype), None
    workers = 1 if _forked or plan[5] < 2 * SMALL else torch.get_num_threads()
    if workers > 1:
        loop = scheduler(True)
        workers = min(workers, numba.config.NUMBA_NUM_THREADS)
        if numba.get_num_threads() != workers:
            numba.set_num_threads(workers)
    else:
        loop = scheduler(False)
    call = _call_memory(8 * words * workers)
    begin = call + 8 * CALL_SLOTS
    numbers = (*sequences, *plan[:5], workers, 0, begin, words, *own)
    _FORMATS[len(numbers)].pack_into(_local.memory, _local.offset, *numbers)
    if workers > 1 and not _reentrant():
        with _lock:
            loop(address, call)
    else:
        loop(address, call)


CALL_SLOTS = 64
_FORMATS = [struct.Struct(f"{count}q") for count in range(CALL_SLOTS)]


def _call_memory(size: int) -> int:
    """Address of room for a call and `size` bytes of scratch, aligned to cache lines; this thread's until it asks again."""
    if getattr(_local, "size", -1) < size:
        _local.memory = np.empty(size + 8 * CALL_SLOTS + 64, np.uint8)
        _local.offset = -_local.memory.ctypes.data % 64
        _local.address = _local.memory.ctypes.data + _local.offset
        _local.size = size
    return _local.address


def _reentrant() -> bool:
    """Whether several Python threads may enter parallel regions at once: OpenMP and TBB allow it, Numba's own pool aborts."""
    return numba.threading_layer() != "workqueue"


def warm(dtypes: tuple[torch.dtype, ...]) -> dict[str, float]:
    """Compiles the kernels for these dtypes and the loops over threads; seconds by kernel."""
    seconds = {}
    for name in KERNELS:
        for dtype in dtypes:
            begin = time.perf_counter()
            kernel(name, dtype)
            seconds[f"{name} {str(dtype).removeprefix('torch.')}"] = time.perf_counter() - begin
    for parallel in (False, True):
        begin = time.perf_counter()
        scheduler(parallel)
        seconds["threads" if parallel else "one thread"] = time.perf_counter() - begin
    return seconds
