"""Whole models forward, a whole block over tokens, and where their time goes."""

# B batch, N tokens

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from tost.analysis.growth_law import crossing
from tost.bench import vision_models as vision
from tost.bench.gate import HALF_RIVALS, Check
from tost.bench.language_gate import check_models, norm_error
from tost.bench.language_models import LABELS, Size, gpt2_model, published_model, random_text, size_of, tost_model
from tost.bench.measure import Call, paired, ratio
from tost.bench.products import KINDS, REST, share_records, with_usual
from tost.bench.result import Result
from tost.bench.tables import number, pivot, timed, times, tokens

LOGITS = 1e-4  # of their norm, ours against the published model's in float32, on the text that is timed
WHOLE, BODY = "with logits of all tokens", "without the head"


class Plan(NamedTuple):
    """Sizes: of images and texts, of a block; seconds a comparison may take, and one call of a block."""

    vision: str
    images: int
    pixels: int
    size: Size
    text: int
    counts: tuple[int, ...]
    rounds: int
    seconds: float
    call_s: float


def make_plan(quick: bool, device: str) -> Plan:
    """The sizes of a run."""
    if quick:
        size = size_of("nano", vocab=4096)
        return Plan("tost_small_12_p16", 1, 512, size, 512, (256, 1024, 4096), 3, 6.0, 1.0)
    batch = 8 if device == "cuda" else 1
    counts = (256, 512, 1024, 2048, 4096, 8192, 16384)
    return Plan("tost_small_12_p16", batch, 1024, size_of("base"), 4096, counts, 7, 25.0, 4.0)


def measure(result: Result) -> None:
    """Vision model, language model, block: each checked, then timed."""
    settings = result.settings
    plan = make_plan(settings.quick, settings.device)
    plan = plan._replace(rounds=settings.rounds or plan.rounds)
    torch.backends.cudnn.allow_tf32 = False  # as torch's matrix products are in float32
    for part in tqdm((measure_vision, measure_language, measure_blocks), unit="part", desc="models", leave=False):
        if not part(result, plan):
            return


@torch.no_grad()
def measure_vision(result: Result, plan: Plan) -> bool:
    """Images through our model, the published one and the twins with other mixers."""
    settings = result.settings
    ours, theirs = (m.to(settings.device) for m in vision.pair(plan.vision, plan.pixels))
    for dtype in dict.fromkeys(("float32", settings.dtype)):
        x = vision.images(plan.images, plan.pixels, dtype, settings.device)
        ours, theirs = ours.to(x.dtype), theirs.to(x.dtype)
        if not result.check([vision.check_vision(ours, theirs, x)]):
            return False
    models: dict[str, nn.Module] = {"published": theirs.to(settings.torch_dtype)}
    for mixer in ("softmax", "xca", "linear"):
        models[mixer] = vision.twin(plan.vision, mixer, plan.pixels).to(settings.device, settings.torch_dtype)
    models["tost"] = ours
    calls = with_usual({name: _pass(model, x) for name, model in models.items()}, settings.device)
    samples = paired(calls, plan.rounds, plan.seconds, 3, settings.device)
    what = f"{plan.vision}, {plan.images} x {plan.pixels} px"
    result.add("vision", ({"model": what, **record} for record in beside_tost(samples)))
    result.add("shares", share_records(calls, settings.device, model=what))
    return True


def _pass(model: nn.Module, x: torch.Tensor) -> Call:
    return torch.no_grad()(lambda: model(x))


@torch.no_grad()
def measure_language(result: Result, plan: Plan) -> bool:
    """A text through our language model, the published one and GPT-2, with the head and without."""
    settings, N = result.settings, plan.text
    with torch.enable_grad():
        if not result.check(check_models(plan.size, settings.device)):
            return False
    to = (settings.device, settings.torch_dtype)
    ours = tost_model(plan.size, N).to(settings.device)
    theirs, rival = published_model(plan.size, N, like=ours).to(settings.device), gpt2_model(plan.size, N).to(*to)
    ids = random_text(plan.size, N, settings.device)
    expected = theirs(ids)
    ours, theirs = ours.to(*to), theirs.to(*to)
    error = norm_error(ours(ids, use_cache=False).logits, expected)
    allowed = HALF_RIVALS[settings.dtype] if settings.half else LOGITS
    if not result.check([Check(f"language model, N{N}: logits", error, allowed)]):
        return False
    del expected
    passes: dict[str, dict[str, Call]] = {
        WHOLE: {
            "published": lambda: theirs(ids),
            "gpt2": lambda: rival(ids, use_cache=False).logits,
            "tost": lambda: ours(ids, use_cache=False).logits,
        },
        BODY: {
            "published": lambda: theirs.transformer(ids),
            "gpt2": lambda: rival.transformer(ids, use_cache=False).last_hidden_state,
            "tost": lambda: ours.model(ids, use_cache=False).last_hidden_state,
        },
    }
    for part, calls in passes.items():
        calls.update(with_usual(calls, settings.device))
        samples = paired(calls, plan.rounds, plan.seconds, 3, settings.device)
        result.add("language", ({"part": part, "tokens": N, **record} for record in beside_tost(samples)))
    what = f"language model, {plan.size.layers} layers of {plan.size.dim}, {N:,} tokens, {BODY}"
    result.add("shares", share_records(passes[BODY], settings.device, model=what))
    return True


def measure_blocks(result: Result, plan: Plan) -> bool:
    """One block over tokens, forward and with backward; those that grow too slow stop."""
    settings, slowest = result.settings, dict[tuple[str, bool], tuple[int, float]]()
    names = ("published", "softmax", "xca", "linear", "tost")
    for name in names:
        if not result.check(vision.check_block(name, plan.counts[0], settings.dtype, settings.device)):
            return False
    blocks = {name: vision.block(name, settings.dtype, settings.device) for name in names}
    for count in plan.counts:
        if not result.check(vision.check_block("tost", count, settings.dtype, settings.device)):
            return False
        for train in (False, True):
            at, seconds = slowest.get(("softmax", train), (count, 0.0))
            late = seconds * (count / at) ** 2 > plan.call_s
            calls = {
                name: vision.block_call(made, count, train, settings.dtype, settings.device)
                for name, made in blocks.items()
                if not (late and name == "softmax")
            }
            samples = paired(calls, plan.rounds, plan.seconds / 4, 1, settings.device)
            records = list(beside_tost(samples))
            slowest.update({(r["contestant"], train): (count, r["ms"] / 1e3) for r in records})
            if late:
                records.append({"contestant": "softmax", "ms": None, "note": f"over {plan.call_s:.0f} s a call"})
            direction = "forward+backward" if train else "forward"
            result.add("block", ({"N": count, "direction": direction, **r} for r in records))
    return True


def beside_tost(samples: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """Times, and how many times longer than ours each takes."""
    for name, taken in samples.items():
        yield {"contestant": name, "ms": 1e3 * median(taken), "over_tost": ratio(taken, samples["tost"])}


def report(result: Result) -> list[str]:
    """Both models, the shares, the block and where softmax is ahead."""
    cell = timed("over_tost", "tost")
    parts = []
    for title, what, labels in (
        ("vision model", "vision", vision.LABELS),
        ("language model", "language", LABELS),
    ):
        rows = result.of(what)
        column = "model" if what == "vision" else "part"
        size = "" if what == "vision" else f" of {rows[0]['tokens']:,} tokens"
        parts.append(
            f"**{title}, forward pass**{size}, milliseconds (times as long as tost)\n\n"
            + pivot(rows, column, cell, labels)
        )
    for model in dict.fromkeys(r["model"] for r in result.of("shares")):
        parts.append(f"**where the time goes**, {model}\n\n{shares(result.of('shares', model=model))}")
    for direction in ("forward", "forward+backward"):
        rows = result.of("block", direction=direction)
        title = f"**a block of ToST-S's size, {direction}**, over tokens: milliseconds (times as long as tost)"
        parts.append(f"{title}\n\n{pivot(rows, 'N', cell, vision.LABELS, head=tokens)}\n\n{ahead(rows)}")
    return parts


def shares(rows: list[dict[str, Any]]) -> str:
    """Contestants down, kinds of work across."""
    kinds = [kind for kind in (*KINDS, REST) if any(r[kind] > 0.0005 for r in rows)]
    flat = [{**r, "kind": kind, "share": r[kind]} for r in rows for kind in [*kinds, "all products"]]
    return pivot(flat, "kind", lambda r: f"{r['share']:.0%}", vision.LABELS | LABELS)


def ahead(rows: list[dict[str, Any]]) -> str:
    """One sentence on the block against softmax's."""
    ours, theirs = (
        [(r["N"], r["ms"]) for r in rows if r["contestant"] == name and r["ms"]] for name in ("tost", "softmax")
    )
    at, (last, theirs_last) = crossing(ours, theirs), max(theirs)
    factor = theirs_last / dict(ours)[last]
    if at is not None:
        where = f"The softmax block is ahead up to about {number(at)} tokens"
    elif factor < 1:
        where = "The softmax block is ahead at every length measured"
    else:
        where = "The softmax block is not ahead at any length measured"
    return f"{where}; at {last:,} it takes {times(factor)} as long as tost's."
