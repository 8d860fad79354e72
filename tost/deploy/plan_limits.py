"""What fits into a memory: the largest context and batch of a plan, and the nearest plan to one that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tost.deploy.plan import Case, Planner, table

FARTHEST = 2**34  # tokens or sequences up to which a limit is looked for
LEAST = 128  # tokens of the smallest chunk that is proposed


def largest(planner: Planner, case: Case, room: int, what: str) -> int:
    """The largest "context" or "batch" with which `case` fits into `room` bytes; 0 if not even 1 does.

    Memory is close to a straight line in both: two plans give a guess, further ones correct it.
    """

    def total(value: int) -> int:
        return planner.plan(changed(case, what, value)).total

    limit = table(planner.config) if what == "context" else None
    most = FARTHEST if limit is None else limit
    here = min(getattr(case, what), most)
    there = max(1, here // 2) if here > 1 else 2
    slope = max(1.0, (total(here) - total(there)) / (here - there))
    guess = int(here + (room - total(here)) / slope)
    if guess >= most:
        return most
    while guess >= 1 and total(guess) > room:
        guess -= max(1, guess // 50)
    return max(guess, 0)


def changed(case: Case, what: str, value: int) -> Case:
    """The case with another "context" or "batch"."""
    return replace(case, context=value) if what == "context" else replace(case, batch=value)


def nearest(planner: Planner, case: Case, room: int) -> Case | None:
    """The first plan that fits into `room`, from what changes least to what changes most; None if none does."""
    for near in neighbours(case):
        if near != case and planner.plan(near).total <= room:
            return near
    for what in ("batch", "context"):
        for near in shrunk(case) if getattr(case, what) > 1 else ():
            fits = largest(planner, near, room, what)
            if fits:
                return changed(near, what, fits)
    return None


def shrunk(case: Case) -> Iterator[Case]:
    """The case with less of its memory used, and offloaded, too: what fewer or shorter sequences are tried with."""
    frugal = {"checkpointing": True} if case.train else {"chunk": min(case.chunk, 4 * LEAST)}
    for offload in sorted({case.offload, True}):
        yield replace(case, **frugal, offload=offload)


def neighbours(case: Case) -> Iterator[Case]:
    """The case with less of its memory used: smaller chunks, int8, checkpointing, offloading."""
    if case.train:
        for offload in sorted({case.offload, True}):
            for checkpointing in sorted({case.checkpointing, True}):
                yield replace(case, checkpointing=checkpointing, offload=offload)
        return
    for dtype, offload in dict.fromkeys([(case.dtype, case.offload), ("int8", case.offload), (case.dtype, True)]):
        chunk = min(case.chunk, case.context)
        while chunk >= min(LEAST, case.chunk):
            yield replace(case, dtype=dtype, offload=offload, chunk=chunk)
            chunk //= 2
