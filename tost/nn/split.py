"""How layers work on a stretch of a sequence whose other stretches other processes hold."""

# B batch, N tokens of this process, C features, H heads, D features per head, R processes

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tost.nn.order import count_after
from tost.nn.pooling import pool
from tost.ops.collectives import gathered, shared, total
from tost.ops.common import statistics_dtype
from tost.ops.context import context_causal_tssa, context_tssa
from tost.ops.state import TSSAState


class Split:
    """The processes among which sequences are split, in the order of their ranks in `group` (None: all processes).

    Every process has the same rows, and calls the same methods. What all of them get, a pooled vector or a mean loss,
    is the whole sequence's; its gradients are right as means over the processes, which DDP and FSDP take anyway.
    Raises ValueError if this process belongs to no such group.
    """

    def __init__(self, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "context_parallel expects processes that know each other, got none; launch with torchrun or "
                "accelerate, and call torch.distributed.init_process_group first"
            )
        self.group, self.rank = group, dist.get_rank(group)
        if self.rank < 0:
            raise ValueError("context_parallel expects a process of its group, got one outside; pass its own group")
        self.size = dist.get_world_size(group)

    def take(self, x: Tensor, dim: int = 1) -> Tensor:
        """This process's stretch of x, the same whole one everywhere; the first ones have one token more if need be."""
        return x.tensor_split(self.size, dim)[self.rank]

    def positions(self, x: Tensor, mask: Tensor | None = None, table: int | None = None) -> Tensor:
        """`token_positions` in the whole sequence: [B, N] int64.  x: [B, N, ...].

        Raises ValueError, in every process, if there are learned positions for `table` tokens and one has more.
        """
        counts = gathered(count_after(x, mask, None), self.group)
        if table is not None and counts.numel() and (most := int(counts.sum(0).max())) > table:
            raise ValueError(
                f"the model has learned positions for {table} tokens, got a split sequence of {most}; shorten it, or "
                "build the model with positions that have no end"
            )
        before = counts[: self.rank].sum(0)
        seen = torch.arange(1, x.shape[1] + 1, device=x.device)[None] if mask is None else mask.long().cumsum(1)
        return (before[:, None] + seen - 1).clamp_min(0)

    def mean(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean over the real tokens of all processes, such as a loss of the tokens.  values, mask: [B, N]."""
        real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        added = torch.where(real, values, 0).sum(dtype=statistics_dtype(values.dtype))
        both = total(torch.stack([added, real.sum().to(added.dtype)]), self.group)
        return (both[0] / both[1].clamp_min(1)).to(values.dtype)

    def pool(self, x: Tensor, how: str, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """`pool` of the whole sequence in every process: [B, C].  x: [B, N, C]."""
        no_packing(cu_seqlens)
        counts = gathered(count_after(x, mask, None), self.group)  # [R, B]
        own = pool(x.to(statistics_dtype(x.dtype)), how, mask) + x[:, :0].sum(1)  # in the graph, even without a token
        if how == "mean":
            share = counts[self.rank].to(own.dtype) / counts.sum(0).clamp_min(1)
            return total(own * share[:, None], self.group).to(x.dtype)
        parts, there = gathered(own, self.group), counts > 0
        if how == "max":
            most = parts.masked_fill(~there[..., None], -torch.inf).amax(0)
            return most.masked_fill(~there.any(0)[:, None], 0).to(x.dtype)
        last = (there * torch.arange(1, self.size + 1, device=x.device)[:, None]).argmax(0)
        return parts[last, torch.arange(x.shape[0], device=x.device)].to(x.dtype)

    def shared(self, draw: Tensor) -> Tensor:
        """The first process's draw, where a layer draws once a sequence and not for each token."""
        return shared(draw, self.group)

    def tssa(self, w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        """`tssa`; w: [B, N, H, D]."""
        no_packing(cu_seqlens)
        return context_tssa(w, temperature, mask=mask, group=self.group)

    def causal_tssa(
        self, w: Tensor, temperature: Tensor, *, cu_seqlens: Tensor | None, state: TSSAState | None, **options: Any
    ) -> tuple[Tensor, TSSAState]:
        """`causal_tssa` and the state after this process's tokens; w: [B, N, H, D]."""
        no_packing(cu_seqlens)
        if state is not None:
            refuse("going on from a state")
        return context_causal_tssa(w, temperature, group=self.group, return_state=True, **options)  # type: ignore


def no_packing(cu_seqlens: Tensor | None) -> None:
    """Refuse packed sequences."""
    if cu_seqlens is not None:
        refuse("packed sequences (cu_seqlens)", "pad them to one length and pass a mask")


def refuse(what: str, instead: str = "do that outside of context_parallel") -> None:
    """Raise ValueError: `what` is not done for a sequence that is split."""
    raise ValueError(f"a sequence split over processes expects one plain forward pass, got {what}; {instead}")
