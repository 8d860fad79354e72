"""A training step: forward, backward and AdamW, beside the published models, the softmax twin and GPT-2."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from tost.bench import training_steps as steps
from tost.bench import vision_models as vision
from tost.bench.groups.models import beside_tost
from tost.bench.groups.models import shares as share_table
from tost.bench.language_gate import check_models
from tost.bench.language_models import LABELS, Size, size_of
from tost.bench.measure import paired
from tost.bench.products import share_records, with_usual
from tost.bench.result import Result
from tost.bench.tables import pivot, timed

LANGUAGE, VISION = ("published", "gpt2", "tost"), ("published", "softmax", "tost")


class Plan(NamedTuple):
    """Sizes of texts and images, rounds, and the seconds a comparison may take."""

    name: str
    size: Size
    text: int
    vision: str
    images: int
    pixels: int
    rounds: int
    seconds: float


def make_plan(quick: bool, device: str) -> Plan:
    """The sizes of a run."""
    if quick:
        return Plan("nano", size_of("nano", vocab=4096), 256, "tost_small_12_p16", 2, 224, 3, 8.0)
    gpu = device == "cuda"
    return Plan("base", size_of("base"), 4096 if gpu else 1024, "tost_small_12_p16", 64 if gpu else 8, 224, 5, 30.0)


def measure(result: Result) -> None:
    """Gradients first, on the texts and images that are timed; then the steps."""
    s = result.settings
    plan = make_plan(s.quick, s.device)
    torch.backends.cudnn.allow_tf32 = False  # as torch's matrix products are in float32
    if not result.check(check_models(plan.size, s.device)):
        return
    if not result.check(steps.check_language(plan.size, plan.text, s.device)):
        return
    if not result.check([steps.check_vision(plan.vision, plan.images, plan.pixels, s.device)]):
        return
    text = f"language model ({plan.name}), 1 x {plan.text:,} tokens"
    picture = f"{plan.vision}, {plan.images} x {plan.pixels} px"
    options = (s.dtype, s.device)
    for what in tqdm((text, picture), unit="model", desc="training step", leave=False):
        if what == text:
            calls = {n: steps.language_step(n, plan.size, plan.text, *options) for n in LANGUAGE}
        else:
            calls = {n: steps.vision_step(n, plan.vision, plan.images, plan.pixels, *options) for n in VISION}
        calls = with_usual(calls, s.device)
        samples = paired(calls, s.rounds or plan.rounds, plan.seconds, 3, s.device)
        result.add("train", ({"model": what, **record} for record in beside_tost(samples)))
        result.add("shares", share_records(calls, s.device, model=what))


def report(result: Result) -> list[str]:
    """A table of times and one of shares for each model."""
    parts = []
    for model in dict.fromkeys(r["model"] for r in result.of("train")):
        rows = [{**r, "column": "ms"} for r in result.of("train", model=model)]
        parts.append(
            f"**training step**, {model}, milliseconds (times as long as tost)\n\n"
            + pivot(rows, "column", timed("over_tost", "tost"), labels())
        )
        parts.append(f"where its time goes\n\n{share_table(result.of('shares', model=model))}")
    return parts


def labels() -> dict[str, Any]:
    """Names of all models."""
    return vision.LABELS | LABELS
