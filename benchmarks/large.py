"""What `tost plan` promises beside what is measured: resident memory on a CPU, or a model of any size on a GPU.

    python -m benchmarks.large                                  # predictions and peaks of small models on this CPU
    python -m benchmarks.large --model 7b --dtype int8          # on a GPU capped to 24 GiB: read 32k tokens, then write

The first measures what a process holds beyond what it held with the weights loaded (tost.bench.peak), a process a row.
The second writes a checkpoint of random weights, loads it shard by shard, and shows the allocator's peak and the plan.
"""

# B batch, N tokens of a chunk, T tokens of the context

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from tost.bench.machine import machine
from tost.bench.measure import Call
from tost.bench.peak import peaks
from tost.bench.tables import header, markdown
from tost.deploy.plan import Case, Planner
from tost.deploy.plan_command import gib, parse_bytes
from tost.deploy.plan_trace import DTYPES
from tost.models.language import ToSTForCausalLM, preset

MIB = 2**20
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # glibc: keep nothing that is freed
WRITTEN = 128  # tokens


class Row(NamedTuple):
    """A model, changes to it, and how it is read or trained."""

    model: str
    changes: dict[str, Any]
    case: dict[str, Any]


LONG = {"max_position_embeddings": 32768}
SOFTMAX = {"mixer": "softmax", "position_mode": "none"}
ROWS = [
    Row("tiny", LONG, {"context": 8192, "chunk": 8192, "dtype": "float32"}),
    Row("tiny", LONG, {"context": 512, "dtype": "float32", "train": True}),
    Row("base", LONG, {"context": 2048, "chunk": 1024, "dtype": "float32"}),
    Row("base", LONG, {"context": 4096, "chunk": 4096, "dtype": "float32"}),
    Row("base", SOFTMAX, {"context": 2048, "chunk": 1024, "dtype": "float32"}),
    Row("modern", {}, {"context": 2048, "chunk": 1024, "dtype": "float32"}),
    Row("nano", LONG, {"context": 1024, "dtype": "float32", "train": True}),
    Row("tiny", LONG, {"context": 1024, "dtype": "float32", "train": True, "checkpointing": True}),
    Row("base", {}, {"context": 512, "dtype": "float32", "train": True}),
]


def calls(name: str, changes: dict[str, Any], options: dict[str, Any]) -> Iterator[Call]:
    """The call whose resident memory is measured, after one like it: kernels compiled, optimiser's state there."""
    config, case = preset(name, **changes), Case(**options, device="cpu")
    torch.manual_seed(0)
    model: Any = ToSTForCausalLM(config).to(DTYPES[case.dtype]).eval()
    ids = torch.randint(config.vocab_size, (case.batch, case.context))
    if case.train:
        yield from steps(model, ids, case)
        return
    from tost.generation.chunked import prefill

    prefill(model, ids[:, :64], 32)
    yield lambda: prefill(model, ids, case.chunk)


def steps(model: Any, ids: torch.Tensor, case: Case) -> Iterator[Call]:
    """A second training step."""
    model.train()
    if case.checkpointing:
        model.activation_checkpointing_enable()
    optimiser = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", DTYPES[case.dtype], enabled=case.dtype != "float32"):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimiser.step()

    step()
    optimiser.zero_grad()
    yield step


def on_this_cpu(rows: list[Row]) -> None:
    """A line a row: planned beyond weights and optimiser, and measured."""
    lines = []
    os.environ.update(GIVE_BACK)  # for the processes that are measured
    for row in tqdm(rows, unit="row", leave=False):
        case = Case(**row.case, device="cpu")
        made = Planner(preset(row.model, **row.changes)).plan(case)
        lay = ("weights", "optimiser", "tokens")
        planned = sum(size for part, size in made.parts.items() if part not in lay)
        (peak,) = peaks("benchmarks.large:calls", [row.model, row.changes, row.case], 1, timeout=900)
        measured = peak.bytes
        does = "step" if case.train else f"chunks of {case.chunk:,}"
        does += ", checkpointing" if case.checkpointing else ""
        name = f"{row.model}, softmax" if row.changes.get("mixer") else row.model
        told = [f"{measured / MIB:,.0f}", f"{planned / measured - 1:+.0%}"] if measured else [str(peak.note), ""]
        cells = [name, f"{made.parameters:,}", f"{case.batch} x {case.context:,}", does, f"{planned / MIB:,.0f}", *told]
        lines.append(cells)
        tqdm.write("  ".join(cells))
    print(header(machine()))
    print("\nMiB beyond weights and optimiser\n")
    print(markdown(["model", "parameters", "tokens", "", "planned", "measured", "planned over measured"], lines))


def on_a_device(args: argparse.Namespace) -> None:
    """Write, load, read, write on; speeds and peaks beside the plan."""
    from tost.deploy.large import load_large, write_random
    from tost.generation.chunked import prefill

    cuda, config = args.device == "cuda", preset(args.model)
    if cuda:
        cap = parse_bytes(args.cap)
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / torch.cuda.get_device_properties(0).total_memory))
    case = Case(args.context, 1, args.chunk, args.dtype, device=args.device)
    made = Planner(config).plan(case)
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        took = clock(args.device)
        folder = write_random(config, Path(place) / "model", dtype=DTYPES[args.dtype], device=args.device)
        print(f"written in {took():.0f} s", flush=True)
        took = clock(args.device)
        model = load_large(folder, device=args.device, int8=args.dtype == "int8")
        print(f"loaded in {took():.0f} s", flush=True)
    ids = torch.randint(config.vocab_size, (1, args.context))
    prefill(model, ids[:, : 2 * args.chunk], args.chunk)  # kernels are compiled
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    took = clock(args.device)
    logits, past = prefill(model, ids, args.chunk)
    seconds = took()
    reading = torch.cuda.max_memory_allocated() if cuda else None
    decoding = decode(model, logits, past, args.device)
    print(header(machine(args.device)))
    reserve = made.parts.get("reserve (assumed)", 0)
    rows = [
        ["parameters", f"{made.parameters:,}"],
        ["planned, GiB, without the reserve", gib(made.total - reserve)],
        ["allocator's peak, GiB", gib(reading) if reading else "not measured"],
        ["reserved by the allocator, GiB", gib(torch.cuda.max_memory_reserved()) if cuda else "not measured"],
        [f"reading {args.context:,} tokens, tokens a second", f"{args.context / seconds:,.0f}"],
        [f"writing after them, {WRITTEN} tokens, tokens a second", f"{WRITTEN / decoding:,.1f}"],
    ]
    print("\n" + markdown([f"{args.model}, {args.dtype}", ""], rows))


@torch.inference_mode()
def decode(model: Any, logits: torch.Tensor, past: Any, device: str) -> float:
    """Seconds of WRITTEN tokens, the likeliest each."""
    token = logits.argmax(-1, keepdim=True)
    model(token, past_key_values=past, use_cache=True)  # the kernels of one token
    took = clock(device)
    for _ in range(WRITTEN):
        token = model(token, past_key_values=past, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
    return took()


def clock(device: str) -> Any:
    """A function that tells the seconds since now, with the device's work done."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    began = now()
    return lambda: now() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a size: measure this one on a device instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--cap", default="24GiB", help="memory of the GPU that may be used")
    parser.add_argument("--folder", help="where the checkpoint is written for the time being")
    args = parser.parse_args()
    if args.model:
        on_a_device(args)
    else:
        on_this_cpu(ROWS)


if __name__ == "__main__":
    main()
