"""`tost plan`: what a language model needs of a device's memory, beside softmax attention, and what would fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from json import dumps, loads
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
CHUNKS = (256, 1024, 4096, 16384)


def plan(
    model: str,
    context: int = 32768,
    batch: int = 1,
    device_memory: str = "24GiB",
    dtype: Literal["float32", "bfloat16", "int8"] = "bfloat16",
    chunk: int = 2048,
    train: bool = False,
    checkpointing: bool = False,
    offload: bool = False,
    device: Literal["cuda", "cpu"] = "cuda",
    json: bool = False,
) -> None:
    """Memory of a language model by part, before it exists: reading a prompt in chunks, or a training step.

    The model's own code runs on tensors without data, so that every configuration can be planned on any machine.
    What does not fit ends with exit code 2 and the nearest plan that does.

    Args:
        model: a size (nano, tiny, base, medium, large, 1b, 3b, 7b, ...) or a folder with a config.json
        context: tokens of a sequence
        batch: sequences at once
        device_memory: of one device, such as 24GiB or 80GB
        dtype: weights and products; int8 = the blocks' matrices alone, weight-only; in training, the products under
            autocast, the weights are float32
        chunk: tokens of a prompt fed at once
        train: plan a training step with AdamW, the whole context at once
        checkpointing: training keeps a block's input alone and runs the block again in the backward pass
        offload: what is not in use waits on the host: one module's weights at a time (accelerate); in training one
            block's, and the optimiser on the host (FSDP)
        device: cuda = count what CUDA itself takes, too
        json: print the numbers in bytes, for a program
    """
    from tost.deploy.plan import Case, Planner
    from tost.deploy.plan_limits import largest

    room, config = parse_bytes(device_memory), config_of(model)
    case = Case(context, batch, chunk, dtype, train, checkpointing, offload, device)
    with tqdm(unit="trace", desc="planning", leave=False, delay=2) as bar:
        planner = Planner(config, bar.update)
        made = planner.plan(case)
        limits = {what: largest(planner, case, room, what) for what in ("context", "batch")}
        twin = rival(config, case, room, bar.update)
        told = as_json(made, room, limits, twin) if json else "\n".join(page(planner, made, room, limits, twin))
    print(told, flush=True)
    if made.total > room:
        raise ValueError(f"{model} needs {gib(made.total)} GiB of {gib(room)}; {way_out(model, planner, case, room)}")


def parse_bytes(text: str) -> int:
    """24GiB, 80 GB, 512MiB or a number of bytes. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?i?B?)", text.strip(), re.IGNORECASE)
    if not found or found[2].upper() not in UNITS or not float(found[1]):
        raise ValueError(f"expected --device-memory such as 24GiB or 80GB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2].upper()])


def config_of(model: str) -> Any:
    """The configuration of a preset, or of a folder with the config.json of a language model."""
    from tost.models.language import PRESETS, ToSTConfig, preset

    folder = Path(model)
    if model in PRESETS:
        return preset(model)
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{model} is no folder with a config.json and no size; the sizes are {', '.join(PRESETS)}")
    try:
        told = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from None
    if not isinstance(told, dict) or told.get("model_type") != ToSTConfig.model_type:
        raise ValueError(f"{path} is not of a ToST language model; `tost plan` plans those")
    return ToSTConfig.from_dict(told)


def rival(config: Any, case: Any, room: int, tick: Any = None) -> dict[str, Any]:
    """The softmax model of the same width and layers: its plan, its unfused scores, and the context that fits."""
    from tost.deploy.plan import Planner, scores, softmax_twin
    from tost.deploy.plan_limits import largest

    planner = Planner(softmax_twin(config), tick)
    return {
        "plan": planner.plan(case),
        "scores": scores(config, case),
        "context": largest(planner, case, room, "context"),
        "batch": largest(planner, case, room, "batch"),
    }


def page(planner: Any, made: Any, room: int, limits: dict[str, int], twin: dict[str, Any]) -> Iterator[str]:
    """What is printed, a paragraph a line."""
    from tost.bench.tables import markdown

    case, config, other = made.case, made.config, twin["plan"]
    yield (
        f"{made.parameters:,} parameters: {config.num_hidden_layers} layers, {config.hidden_size} wide, "
        f"{config.num_attention_heads} heads of {config.hidden_size // config.num_attention_heads}; "
        f"softmax of the same width and layers {other.parameters:,}"
    )
    does = "a training step on" if case.train else "reading"
    yield f"{does} {case.batch} x {case.context:,} tokens, {case.dtype}, on a {case.device} device of {gib(room)} GiB\n"
    softmax = dict(zip(made.parts, other.parts.values()))
    rows = [[name, gib(size), gib(softmax[name])] for name, size in made.parts.items()]
    rows.append(["**total**", f"**{gib(made.total)}**", f"**{gib(other.total)}**"])
    rows += [[f"{name}, on the host", gib(size), gib(other.host[name])] for name, size in made.host.items()]
    if case.train:
        rows.append(["kept by the forward pass, when there are no gradients yet", gib(made.kept), gib(other.kept)])
    rows.append(["scores of one layer, where attention is not fused", "none", gib(twin["scores"])])
    for what, limit in limits.items():
        rows.append([f"largest {what} that fits", count(limit), count(twin[what])])
    yield markdown(["GiB", "ToST", "softmax, fused"], rows)
    if not case.train:
        yield "\n" + markdown(["tokens of a chunk", "activations, GiB", "total, GiB"], chunks(planner, case))


def chunks(planner: Any, case: Any) -> Iterator[list[str]]:
    """A row for each size of chunk."""
    for size in (*(size for size in CHUNKS if size < case.context), case.context):
        made = planner.plan(replace(case, chunk=size))
        working = next(value for name, value in made.parts.items() if name.startswith("activations"))
        yield [f"{size:,}", gib(working), gib(made.total)]


def as_json(made: Any, room: int, limits: dict[str, int], twin: dict[str, Any]) -> str:
    """The same in bytes."""

    def told(plan: Any) -> dict[str, Any]:
        return {"parameters": plan.parameters, "parts": plan.parts, "host": plan.host, "total": plan.total}

    softmax = told(twin["plan"]) | {"largest": {what: twin[what] for what in limits}, "unfused_scores": twin["scores"]}
    case = asdict(made.case) | {"device_memory": room}
    return dumps({"case": case, **told(made), "fits": made.total <= room, "largest": limits, "softmax": softmax})


def way_out(model: str, planner: Any, case: Any, room: int) -> str:
    """The nearest plan that fits, or the nearest size."""
    from tost.deploy.plan import Planner
    from tost.deploy.plan_limits import nearest
    from tost.models.language import PRESETS

    near = nearest(planner, case, room)
    if near:
        return f"nearest that fits: {options(case, near)} ({gib(planner.plan(near).total)} GiB)"
    for name in ("7b", "3b", "1b", "large", "medium", "base", "tiny", "nano"):
        smaller = Planner(config_of(name))
        if name in PRESETS and smaller.parameters < planner.parameters:
            near = nearest(smaller, case, room)
            if near:
                return f"no way that this command knows; nearest size: {name} {options(case, near)}".rstrip()
    return "no size fits"


def options(case: Any, near: Any) -> str:
    """The options in which `near` differs, as they are written on the command line."""
    changed = {name: value for name, value in asdict(near).items() if value != getattr(case, name)}
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in changed.items())


def gib(size: float) -> str:
    """Bytes in GiB, three digits."""
    from tost.bench.tables import number

    return number(size / 2**30)


def count(limit: int) -> str:
    """A number of tokens or sequences, or none."""
    return f"{limit:,}" if limit else "none"
