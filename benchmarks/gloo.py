"""What sums between processes of this machine cost, what layers send: `python -m benchmarks.scaling measure`."""

# R processes, N tokens of each, C features, H heads

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tqdm import tqdm

from tost.bench.machine import machine
from tost.bench.tables import header, markdown, number, tokens
from tost.nn import TSSA, CausalTSSA, context_parallel
from tost.ops.collectives import communicated, gathered, summed

SIZES = tuple(2**i for i in range(9, 22))  # bytes of a process
CALLS: dict[str, Callable[..., Any]] = {"sum": summed, "gather": gathered}
C, H = 256, 8
LENGTHS = (1024, 16384)
KINDS = {"full": TSSA, "causal": CausalTSSA}


def measure(rounds: int = 100, processes: tuple[int, ...] = (2, 4)) -> None:
    """Print latency and bandwidth of gloo between processes of this machine, and bytes that a layer sends.

    Args:
        rounds: how often each size takes its turn; medians are fitted
        processes: sizes of the groups
    """
    print(header(machine("cpu")), "", sep="\n")
    fits, layers = [], []
    for R in tqdm(processes, desc="groups", unit="group", leave=False):
        found = together(R, rounds)
        for name in CALLS:
            seconds = np.array([found[name][str(size)] for size in SIZES])
            sent = np.array([on_the_wire(name, R, size) for size in SIZES])
            latency, per_byte = fit(sent, seconds)
            off = np.abs((latency + per_byte * sent) / seconds - 1)
            micro = number(latency * 1e6)
            fits.append([str(R), name, micro, number(1e-6 / per_byte), f"{np.median(off):.0%}", f"{off.max():.0%}"])
        for kind in KINDS:
            told = found[kind]
            layers.append([f"{kind}, {R}", *(f"{told[str(N)]:,}" for N in LENGTHS)])
    head = ["processes", "collective", "latency, us", "MB/s a process", "median misfit", "largest"]
    print(markdown(head, fits), "bytes of a process, forward and backward, a row of C 256 in 8 heads", "", sep="\n\n")
    print(markdown(["form, processes", *(f"{tokens(N)} tokens each" for N in LENGTHS)], layers))


def on_the_wire(name: str, R: int, size: int) -> float:
    """Bytes that a process of a ring sends for a collective of `size` bytes."""
    return (R - 1) * size * (2 / R if name == "sum" else 1)


def fit(sent: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """(s, s/byte) of seconds = latency + sent * per_byte, by least squares of the relative errors."""
    columns = np.stack([1 / seconds, sent / seconds], 1)
    latency, per_byte = np.linalg.lstsq(columns, np.ones(len(sent)), rcond=None)[0]
    return float(latency), float(per_byte)


def together(R: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds by collective and bytes, and bytes by layer and tokens, as the first of R processes sees them."""
    with TemporaryDirectory() as folder:
        mp.spawn(work, (R, folder, rounds), nprocs=R)
        return json.loads((Path(folder) / "found.json").read_text())


def work(rank: int, R: int, folder: str, rounds: int) -> None:
    """One process of a group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", R), rank=rank, world_size=R)
    times: dict[tuple[str, int], list[float]] = {(name, size): [] for name in CALLS for size in SIZES}
    for _ in tqdm(range(rounds), desc=f"{R} processes", unit="round", leave=False, disable=rank > 0):
        for name, size in times:
            x = torch.ones(size // 4)
            dist.barrier()
            start = time.perf_counter()
            CALLS[name](x, None)
            times[name, size].append(time.perf_counter() - start)
    found: dict[str, dict[str, float]] = {name: {} for name in [*CALLS, *KINDS]}
    for (name, size), seconds in times.items():
        found[name][str(size)] = float(np.median(seconds))
    for kind, layer in KINDS.items():
        for N in LENGTHS:
            found[kind][str(N)] = layer_bytes(layer(C, H), N)
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def layer_bytes(layer: torch.nn.Module, N: int) -> int:
    """What this process hands to collectives in a training step of a layer on one row of N tokens."""
    with context_parallel(layer), communicated() as volume:
        layer(torch.randn(1, N, C)).sum().backward()
    return volume.bytes
