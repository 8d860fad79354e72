"""Groups of processes that compute something together, and what each of them found."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

PATIENCE = timedelta(seconds=60)  # a group whose members wait for different things ends with an error


def start(module, size, folder, *arguments):
    """`python -m MODULE RANK SIZE FOLDER ...` for every rank."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(size), str(folder), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]


def finished(processes, seconds=200):
    """(exit code, error output) of each; none of them is left running."""
    try:
        told = [process.communicate(timeout=seconds)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(process.returncode, error) for process, error in zip(processes, told)]


def found_by(module, size, folder, *arguments):
    """What each process of a group saved."""
    ended = finished(start(module, size, folder, *arguments))
    wrong = [f"process {rank}: {error[-3000:]}" for rank, (code, error) in enumerate(ended) if code]
    assert not wrong, "\n".join(sorted(wrong, key=lambda told: "gloo" in told))  # the cause first
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def join(rank, size, folder):
    """Become a member of the group (gloo)."""
    store = dist.FileStore(str(Path(folder) / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)


def leave(rank, folder, found):
    """Save what this process found, and part when all have."""
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
