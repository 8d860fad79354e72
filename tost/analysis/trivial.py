"""Segmentation without a model: what every score must be read against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tost.analysis.masks import Labelled
from tost.analysis.scores import best_rule, in_steps, level_ious
from tost.analysis.segmentation import Pairs, Scores, View, soft_step
from tost.analysis.subject import VisionSubject


def trivial(labelled: Labelled, subject: VisionSubject, size: int | None, bar: Any) -> list[Scores]:
    """What needs no model: everything is the object; what lies within a chosen distance of the middle is."""
    choosing, scored = labelled.halves()
    ious = []
    for view in _middles(subject, labelled, choosing, size, bar):
        ious.append(level_ious(in_steps(view.soft["middle"], view.example.grid, view.size), view.mask))
    rule = best_rule(torch.stack(ious))
    everything = Scores("no model", "everything", "")
    middle = Scores("no model", "the middle", rule.told())
    step = soft_step("middle", rule)
    for view in _middles(subject, labelled, scored, size, bar):
        whole = torch.ones(view.size, dtype=torch.bool)
        everything.add(whole, whole, view.mask)
        middle.add(*step(view), view.mask)
    return [everything, middle]


def _middles(subject: VisionSubject, labelled: Labelled, pairs: Pairs, size: int | None, bar: Any) -> Iterator[View]:
    """Photographs with one soft map: how near to the middle a patch is."""
    for photo, mask in pairs:
        example = subject.photo(photo, size)
        down, across = (torch.linspace(-1, 1, count) for count in example.grid)
        near = -(down[:, None].square() + across.square()).sqrt()
        read = labelled.read(mask, (example.input.shape[-2], example.input.shape[-1]))
        yield View(example, read, {"middle": near.flatten()[None]}, [], None)
        bar.update()
