"""Peak memory of the operator, a block and a training step; what is kept for the backward pass; states; long texts."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from tost.bench import operators
from tost.bench import training_steps as steps
from tost.bench import vision_models as vision
from tost.bench.contestants import CONTESTANTS, LABELS, OPS, Case, Entry, Tensors
from tost.bench.gate import check_case, check_definition
from tost.bench.groups import train
from tost.bench.limits import Limits
from tost.bench.peak import peaks
from tost.bench.prefill import MODEL
from tost.bench.presence import absentees
from tost.bench.result import Result
from tost.bench.tables import markdown, mebibytes, number, pivot, shape_of, tokens
from tost.ops import TSSAState

SHAPE = (8, 48)  # H, D of ToST-S
CHECKED = 1024  # tokens at which all contestants are checked: a peak says little about a value
COUNT = {True: 4096, False: 8192}  # tokens of operator and block, quick and not
BASE = (12, 64)  # H, D of a layer of the Base model
CONTEXTS = (512, 32768, 2**20)
TEXTS = {
    True: ((4096, 0), (4096, 1024), (16384, 1024)),
    False: ((65536, 0), (262144, 0), (65536, 4096), (262144, 4096), (1048576, 4096)),
}


def measure(result: Result) -> None:
    """Check everybody once, then one peak after another."""
    s = result.settings
    result.absent = absentees(s)
    if not (result.check(check_definition()) and check_all(result)):
        return
    for part in tqdm(
        (measure_operator, measure_blocks, measure_steps, measure_saved, measure_texts),
        unit="part",
        desc="memory",
        leave=False,
    ):
        part(result)
    result.add("state", state_records(s.torch_dtype.itemsize))


def check_all(result: Result) -> bool:
    """Values and gradients of all contestants and blocks at one size."""
    s = result.settings
    for op in OPS:
        case = Case(op, True, 1, CHECKED, *SHAPE, s.dtype, s.device)
        tensors = Tensors(case)
        names = [n for n in operators.names_of(result) if op in CONTESTANTS[n].ops]
        if not result.check(check_case(case, [Entry(n, case, tensors) for n in names], tensors)):
            return False
    blocks = (
        check for n in ("tost", "softmax", "published") for check in vision.check_block(n, 256, s.dtype, s.device)
    )
    plan = train.make_plan(True, s.device)  # a small model has the same code
    return (
        result.check(blocks)
        and result.check(steps.check_language(plan.size, plan.text, s.device))
        and result.check([steps.check_vision(plan.vision, plan.images, plan.pixels, s.device)])
    )


def measure_operator(result: Result) -> None:
    """Both operators, forward and with backward."""
    s = result.settings
    limits = Limits(float("inf"), float("inf"), result.absent)
    shape = (1, COUNT[s.quick], *SHAPE)
    cases = [Case(op, train, *shape, s.dtype, s.device) for op in OPS for train in (False, True)]
    if s.quick:
        limits.absent = {**result.absent, "compiled": "compiling takes longer than all else here"}
    for name in operators.names_of(result, "ours", "rival"):
        result.add("operator", operators.operator_peaks(limits, name, cases))


def measure_blocks(result: Result) -> None:
    """A block of ToST-S's size."""
    s = result.settings
    for train_too in (False, True):
        for name in ("published", "softmax", "tost"):
            arguments = [name, [COUNT[s.quick]], train_too, s.dtype, s.device]
            (peak,) = peaks("tost.bench.vision_models:block_calls", arguments, 1, s.device)
            direction = "forward+backward" if train_too else "forward"
            result.add("block", [{"contestant": name, "direction": direction, "N": COUNT[s.quick], **peak._asdict()}])


def measure_steps(result: Result) -> None:
    """Training steps of the language and of the vision model, beyond weights, gradients and the optimiser's state."""
    s = result.settings
    plan = train.make_plan(s.quick, s.device)
    sizes: dict[str, tuple[tuple[str, ...], list[Any], str]] = {
        "language": (train.LANGUAGE, [list(plan.size), plan.text], f"{plan.name}, 1 x {plan.text:,} tokens"),
        "vision": (
            train.VISION,
            [plan.vision, plan.images, plan.pixels],
            f"{plan.vision}, {plan.images} x {plan.pixels} px",
        ),
    }
    for kind, (names, arguments, title) in sizes.items():
        for name in names:
            request = [kind, name, arguments, s.dtype, s.device]
            (peak,) = peaks("tost.bench.training_steps:calls", request, 1, s.device)
            result.add("step", [{"contestant": name, "model": title, **peak._asdict()}])


def measure_saved(result: Result) -> None:
    """What each contestant keeps for its backward pass, over the size of w."""
    s = result.settings
    for op in OPS:
        case = Case(op, True, 1, CHECKED, *SHAPE, s.dtype, s.device)
        for name in operators.names_of(result, "ours", "rival"):
            if name != "compiled" and op in CONTESTANTS[name].ops:
                kept = operators.saved_bytes(name, case)
                result.add("saved", [{**case.record(name), "bytes": kept, "over_w": kept / case.w_bytes}])


def measure_texts(result: Result) -> None:
    """Reading a long text, whole or in chunks."""
    s = result.settings
    for length, chunk in TEXTS[s.quick]:
        (peak,) = peaks("tost.bench.prefill:calls", [[length], chunk, s.dtype, s.device], 1, s.device, 600)
        way = f"chunks of {chunk:,}" if chunk else "at once"
        result.add("text", [{"contestant": way, "tokens": length, **peak._asdict()}])


def state_records(itemsize: int) -> Iterator[dict[str, Any]]:
    """Bytes a layer of the Base model keeps for a sequence: our state, and keys and values in this precision."""
    H, D = BASE
    state = sum(part.nbytes for part in TSSAState.zeros(1, H, D))
    for context in CONTEXTS:
        yield {"contestant": "tost", "N": context, "bytes": state}
        yield {"contestant": "softmax", "N": context, "bytes": 2 * context * H * D * itemsize}


def report(result: Result) -> list[str]:
    """A table each."""
    count = COUNT[result.settings.quick]
    texts = result.of("text")
    ways = {r["contestant"]: r["contestant"] for r in texts}
    operator = pivot(result.of("operator"), lambda r: f"{r['op']}, {r['direction']}", mebibytes, LABELS)
    block = pivot(result.of("block"), "direction", mebibytes, vision.LABELS)
    saved = pivot(result.of("saved"), "op", lambda r: f"{r['over_w']:.2f}", LABELS)
    kib = {"tost": "tost, one state", "softmax": "softmax attention, keys and values"}
    state = pivot(result.of("state"), "N", lambda r: number(r["bytes"] / 1024), kib, head=tokens)
    beyond = "peak MiB beyond the inputs and weights"
    B, _, H, D = shape_of(result.of("saved")[0])
    return [
        f"**operator**, B{B} N{count} H{H} D{D}, {beyond}\n\n{operator}",
        f"**block of ToST-S's size**, {count:,} tokens, {beyond}\n\n{block}",
        "**training step**, peak MiB beyond weights and the optimiser's state\n\n" + _steps(result),
        f"**kept for the backward pass** beside the inputs, over the size of w\n\n{saved}",
        f"**kept between two tokens** by a layer of the Base model, KiB, over the context\n\n{state}",
        f"**reading a long text**, peak MiB beyond the model ({MODEL})\n\n"
        + pivot(texts, "tokens", mebibytes, ways, head=tokens),
    ]


def _steps(result: Result) -> str:
    rows = result.of("step")
    lines = [[f"{r['model']}: {train.labels()[r['contestant']]}", mebibytes(r)] for r in rows]
    return markdown(["", "MiB"], lines)
