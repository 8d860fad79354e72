"""Long sequences on many processes: each holds a stretch of the tokens, weights are copied (DDP) or sharded (FSDP2).

    torchrun --nproc_per_node 4 examples/long_context.py --context 2
    accelerate launch --num_processes 8 examples/long_context.py --context 8 --shard true --tokens 1048576

A small causal model learns which of two symbols a sequence holds more of. Processes form a grid, data x context; those
of one row read the same sequences. The losses are those of one process, up to rounding, whatever the grid.
"""

# B rows of all processes, N tokens, K classes

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jsonargparse import auto_cli
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tost.files import atomic_write
from tost.models.sequence import SequenceConfig, ToSTSequence
from tost.nn import context_parallel
from tost.ops.collectives import communicated

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def main(
    context: int = 1,
    shard: bool = False,
    tokens: int = 4096,
    rows: int = 8,
    steps: int = 20,
    layers: int = 2,
    dim: int = 64,
    folder: Path = Path("runs/long-context"),
    every: int = 5,
    patience: int = 60,
) -> None:
    """Train, printing the loss and what a process sent in every step; go on where the last checkpoint in `folder` is.

    Args:
        context: processes that share a sequence; the rest of the grid splits the rows
        shard: spread parameters, gradients and the optimiser's averages over the processes that share a sequence
        tokens: of a sequence
        rows: sequences of a step, of all processes together
        steps: how many, in all
        layers: of the model
        dim: features of a token
        folder: of the checkpoint
        every: steps from one checkpoint to the next
        patience: seconds after which a process that others do not answer ends with an error
    """
    device = join(patience)
    mesh = grid(device, context, rows)
    model = build(mesh, shard, layers, dim)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    file, chief = folder / "checkpoint.safetensors", dist.get_rank() == 0
    done = restore(file, model, optimizer)
    for step in tqdm(range(done, steps), initial=done, total=steps, unit="step", disable=not chief):
        loss, sent = one_step(model, optimizer, batch(step, rows, tokens, device), mesh)
        if chief:
            tqdm.write(f"step {step} loss {loss:.6f} sent {sent} bytes")
        if (step + 1) % every == 0 or step + 1 == steps:
            keep(file, step + 1, model, optimizer)
    dist.destroy_process_group()


def join(patience: int) -> torch.device:
    """Meet the others that torchrun or accelerate started (without them: one process); this process's device."""
    cuda = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false") != "true"
    backend, limit = "nccl" if cuda else "gloo", timedelta(seconds=patience)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=limit)
    else:
        dist.init_process_group(backend, timeout=limit, store=dist.HashStore(), rank=0, world_size=1)
    if not cuda:
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cuda")


def grid(device: torch.device, context: int, rows: int) -> DeviceMesh:
    """data x context, neighbours in a row: stretches of one sequence talk most, so they belong in one machine."""
    size = dist.get_world_size()
    if context < 1 or size % context or rows % (size // context):
        raise ValueError(
            f"{size} processes as data x context expect a context that divides them and rows that the rest divides, "
            f"got context={context} and rows={rows}"
        )
    return init_device_mesh(device.type, (size // context, context), mesh_dim_names=("data", "context"))


def build(mesh: DeviceMesh, shard: bool, layers: int, dim: int) -> nn.Module:
    """The same model in every process, wrapped."""
    torch.manual_seed(0)
    config = SequenceConfig(vocab_size=3, num_classes=2, dim=dim, num_layers=layers, mlp_dim=2 * dim, causal=True)
    model = ToSTSequence(config).to(mesh.device_type)
    if not shard:
        return DistributedDataParallel(model)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)  # copied over data, sharded over context; gradients are averaged over both
    return fully_shard(model, mesh=mesh)


def batch(step: int, rows: int, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """ids [B, N], 0 and 1 among twos, and labels [B], whether there are more ones. The same in every process."""
    random = torch.Generator().manual_seed(step)
    share = torch.rand(rows, 1, generator=random)
    symbols = (torch.rand(rows, tokens, generator=random) < share).long()
    ids = torch.where(torch.rand(rows, tokens, generator=random) < 0.5, 2, symbols)
    labels = ((ids == 1).sum(1) > (ids == 0).sum(1)).long()
    return ids.to(device), labels.to(device)


def one_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], mesh: DeviceMesh
) -> tuple[float, int]:
    """(the loss of all rows, bytes that this process handed to context parallelism)."""
    ids, labels = (part.tensor_split(mesh.size(0))[mesh.get_local_rank("data")] for part in data)
    with context_parallel(model, mesh.get_group("context")) as split, communicated() as sent:
        loss = F.cross_entropy(model(split.take(ids)), labels)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    mean = loss.detach() / mesh.size(0)
    dist.all_reduce(mean, group=mesh.get_group("data"))
    return float(mean), sent.bytes


def keep(file: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the whole state, from any grid, as one file that appears at once."""
    weights, averages = get_state_dict(model, optimizer, options=WHOLE)
    if dist.get_rank() == 0:
        parts = {"model": weights, **averages["state"]}  # by parameter: exp_avg, exp_avg_sq, step
        tensors = {f"{of}/{name}": t.contiguous() for of, part in parts.items() for name, t in part.items()}
        with atomic_write(file, "wb") as out:
            out.write(save(tensors, {"step": str(step)}))


def restore(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what `keep` wrote on any grid, if it did; the steps done."""
    if not file.exists():
        return 0
    weights, averages = get_state_dict(model, optimizer, options=WHOLE)
    with safe_open(file, "pt") as stored:
        for of, part in {"model": weights, **averages["state"]}.items():
            part.update({name: stored.get_tensor(f"{of}/{name}") for name in part})
        done = int(stored.metadata()["step"])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=averages, options=WHOLE)
    return done


if __name__ == "__main__":
    auto_cli(main, prog="python examples/long_context.py")
