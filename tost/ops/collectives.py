"""What processes say to each other, with gradients, and how much of it."""

# R processes

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(eq=False)
class Volume:
    """What a process handed to collectives: how often, and how many bytes of its own."""

    calls: int = 0
    bytes: int = 0


_volumes: list[Volume] = []


@contextmanager
def communicated() -> Iterator[Volume]:
    """Counts what this process hands to the collectives of context parallelism: `with communicated() as sent: ...`.

    Of a sum its terms, of a gather its part, of a scattered sum the part that it gets: n bytes each, of which a ring of
    R processes sends 2 (R - 1) / R n for a sum, (R - 1) n for the others.
    """
    _volumes.append(volume := Volume())
    try:
        yield volume
    finally:
        _volumes.remove(volume)


def _count(x: Tensor) -> None:
    for volume in _volumes:
        volume.calls += 1
        volume.bytes += x.numel() * x.element_size()


def summed(x: Tensor, group: Any) -> Tensor:
    """x added over the group, without a gradient."""
    x = x.contiguous()
    _count(x)
    dist.all_reduce(x, group=group)
    return x


def total(x: Tensor, group: Any) -> Tensor:
    """x added over the group. Its gradient is that of the sum of what the processes make of it."""
    return _Sum.apply(x, group)


def gathered(x: Tensor, group: Any) -> Tensor:
    """[R, ...], the x of every process. Its gradient is that of the sum of what the processes make of it."""
    return _Gather.apply(x, group)


def shared(x: Tensor, group: Any) -> Tensor:
    """The x of the group's first process, without a gradient."""
    x = x.contiguous()
    _count(x)
    dist.broadcast(x, group=group, group_src=0)
    return x


class _Sum(torch.autograd.Function):
    """`summed`, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return summed(x.clone(), group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return summed(grads[0].clone(), ctx.group), None


class _Gather(torch.autograd.Function):
    """All parts to every process; their gradients, added, back to where each part is from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, x = group, x.contiguous()
        _count(x)
        parts = x.new_empty(dist.get_world_size(group), *x.shape)
        dist.all_gather(list(parts), x, group=group)
        return parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        parts = list(grads[0].contiguous())
        own = torch.empty_like(parts[0])
        _count(own)
        dist.reduce_scatter(own, parts, group=ctx.group)
        return own, None
