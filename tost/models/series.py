"""The next steps of streams, checked: their width, their gaps, which go together."""

# n steps, F numbers of a step

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def as_steps(name: str, values: Any, width: int, vocabulary: int) -> Tensor:
    """`values` as a tensor [n, width] of float32, or ids [n] where width is 0; one step may come without the n.

    Raises ValueError for what is no array, of another width, empty, or an id outside the vocabulary.
    """
    wanted = f"numbers of shape [n, {width}] or [{width}]" if width else "ids of shape [n], or one"
    try:
        x = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"stream {name!r} expects {wanted}, got {type(values).__name__}") from None
    one = x.ndim == (1 if width else 0)
    if one:
        x = x[None]
    if x.ndim != (2 if width else 1) or (width and x.shape[-1] != width) or x.is_complex():
        raise ValueError(f"stream {name!r} expects {wanted}, got {x.dtype} {list(x.shape[one:])}")
    if not len(x):
        raise ValueError(f"stream {name!r}: no step was pushed; leave the stream out instead")
    if width:
        return x.detach().float()
    if x.is_floating_point() or not 0 <= int(x.min()) <= int(x.max()) < vocabulary:
        raise ValueError(f"stream {name!r} expects ids 0 to {vocabulary - 1}, got {x.tolist()[:5]}")
    return x.detach().long()


def refuse_gaps(name: str, x: Tensor) -> None:
    """ValueError for the first number of x [n, F] that is missing or infinite."""
    _refuse(name, x, ~x.isfinite(), "leave the step out, or ask for gaps='hold'")


def fill_gaps(name: str, x: Tensor, held: Tensor) -> Tensor:
    """x [n, F] with the last number of the same feature for each that is missing; held [F]: those before x.

    Raises ValueError for an infinite number, and for a missing one without an earlier one.
    """
    _refuse(name, x, x.isinf(), "leave the step out")
    both = torch.cat([held.to(x)[None], x])
    step = torch.arange(len(both))[:, None].expand_as(both)
    last = torch.where(both.isnan(), -1, step).cummax(0).values
    _refuse(name, x, (last < 0)[1:], "gaps='hold' needs an earlier one: begin with a whole step")
    return both.gather(0, last.clamp_min(0))[1:]


def of_similar_length(series: Mapping[str, Tensor]) -> list[list[str]]:
    """Names in groups whose numbers of steps lie between a power of two and the next."""
    groups: dict[int, list[str]] = {}
    for name, x in series.items():
        groups.setdefault((len(x) - 1).bit_length(), []).append(name)
    return list(groups.values())


def _refuse(name: str, x: Tensor, bad: Tensor, way_out: str) -> None:
    if bad.any():
        step, feature = bad.nonzero()[0].tolist()
        what = "a gap (NaN)" if x[step, feature].isnan() else "an infinite number"
        raise ValueError(f"stream {name!r}, step {step} of this push, feature {feature}: {what}; {way_out}")
