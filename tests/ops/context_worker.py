"""One of four processes: `python -m tests.ops.context_worker RANK 4 FOLDER`; writes what it computed to FOLDER.

The first two are a group of their own as well.
"""

import sys

import torch
import torch.distributed as dist

from tests.processes import join, leave
from tost.ops.context import context_causal_tssa, context_tssa

CASES = ("full", "full masked", "causal", "causal masked", "causal decay", "causal decay masked")
B, H, D = 2, 3, 4
LENGTHS = {2: (7, 4), 4: (3, 0, 6, 2)}  # tokens of each process


def inputs(case, size):
    """The whole sequence and the parameters, all of them leaves, the same in every process."""
    random = torch.Generator().manual_seed(CASES.index(case))
    N = sum(LENGTHS[size])
    tensors = {
        "w": torch.randn(B, N, H, D, generator=random, dtype=torch.float64),
        "temperature": torch.rand(H, generator=random, dtype=torch.float64) + 0.5,
    }
    if case.startswith("causal"):
        tensors["position_bias"] = torch.randn(H, 20, generator=random, dtype=torch.float64) / 4
    if "decay" in case:
        tensors["decay"] = torch.rand(H, generator=random, dtype=torch.float64) * 0.3 + 0.7
    mask = torch.rand(B, N, generator=random) > 0.3 if "masked" in case else None
    weight = torch.randn(B, N, H, D, generator=random, dtype=torch.float64)
    return {name: t.requires_grad_() for name, t in tensors.items()}, mask, weight


def work(rank, size, group):
    """y, gradients and for causal cases the state of this process, by case."""
    found = {}
    end = sum(LENGTHS[size][: rank + 1])
    cut = slice(end - LENGTHS[size][rank], end)
    for case in CASES:
        tensors, mask, weight = inputs(case, size)
        mine = {**tensors, "w": tensors["w"][:, cut].detach().requires_grad_()}
        w, part = mine["w"], None if mask is None else mask[:, cut]
        if case.startswith("full"):
            y = context_tssa(w, mine["temperature"], mask=part, group=group)
        else:
            options = {name: t for name, t in mine.items() if name not in ("w", "temperature")}
            y, state = context_causal_tssa(w, mine["temperature"], mask=part, group=group, return_state=True, **options)
            found[case, "state"] = [part.detach() for part in state]
        gradients = torch.autograd.grad((y * weight[:, cut]).sum(), list(mine.values()), allow_unused=True)
        found[case, "y"] = y.detach()
        found[case, "gradients"] = dict(zip(mine, gradients))
    return found


def main(rank, size, folder):
    join(rank, size, folder)
    groups = {members: dist.new_group(list(range(members))) for members in LENGTHS}
    leave(rank, folder, {members: work(rank, members, group) for members, group in groups.items() if rank < members})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
