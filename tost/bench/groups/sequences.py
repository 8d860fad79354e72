"""Models of sequences from a thousand tokens to a million in one pass, and batches of very different lengths."""

# N tokens

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

from tqdm import tqdm

from tost.bench import sequence_models as sequences
from tost.bench.limits import memory_budget
from tost.bench.measure import paired, ratio
from tost.bench.peak import peaks
from tost.bench.result import Result
from tost.bench.tables import markdown, mebibytes, number, pivot, timed, times


class Plan(NamedTuple):
    """Tokens of one sequence, forward and in training; lengths of a ragged batch; the longest call in seconds."""

    forward: tuple[int, ...]
    train: tuple[int, ...]
    ragged: tuple[int, ...]
    call_s: float


ROWS = {"packed": "packed, padding-free (cu_seqlens)", "padded": "padded to the longest"}


def make_plan(quick: bool) -> Plan:
    """The sizes of a run."""
    if quick:
        return Plan((1000, 10_000, 100_000), (1000, 10_000), (1, 10, 100, 1000, 10_000), 5.0)
    return Plan((1000, 10_000, 100_000, 1_000_000), (1000, 10_000, 100_000), (1, 10, 100, 1000, 10_000, 100_000), 40.0)


def measure(result: Result) -> None:
    """Each model over lengths, forward and in training, then the ragged batch."""
    s, plan = result.settings, make_plan(result.settings.quick)
    if not result.check(sequences.check_models(s.dtype, s.device)):
        return
    for train, counts in ((False, plan.forward), (True, plan.train)):
        measure_single(result, train, counts, plan.call_s)
    measure_ragged(result, plan.ragged)


def measure_single(result: Result, train: bool, counts: tuple[int, ...], call_s: float) -> None:
    """Time and peak of one sequence of every length."""
    s = result.settings
    took: dict[str, tuple[int, float]] = {}
    direction = "forward+backward" if train else "forward"
    for count in tqdm(counts, unit="length", desc=direction, leave=False):
        names = [name for name in sequences.MODELS if foreseen(name, count, took) <= call_s]
        make = sequences.step if train else sequences.forward
        batch = {"x": sequences.ids(count, s.device)}
        calls = {name: make(sequences.model(name, s.dtype, s.device), batch) for name in names}
        samples = paired(calls, s.rounds or 5, 20.0, 1, s.device)
        for name in sequences.MODELS:
            record: dict[str, Any] = {"contestant": name, "direction": direction, "N": count, "ms": None, "note": None}
            if name in samples:
                took[name] = (count, median(samples[name]))
                record |= {"ms": 1e3 * took[name][1], "over_tost": ratio(samples[name], samples["tssa"])}
            else:
                record["note"] = f"about {foreseen(name, count, took):,.0f} s"
            result.add("time", [record])
    for name in tqdm(sequences.MODELS, unit="model", desc=f"{direction}, peak memory", leave=False):
        timed_ones = [r["N"] for r in result.of("time", contestant=name, direction=direction) if r["ms"] is not None]
        arguments = [name, timed_ones, train, s.dtype, s.device]
        found = peaks("tost.bench.sequence_models:single_calls", arguments, len(timed_ones), s.device)
        shared = {"contestant": name, "direction": direction}
        result.add("peak", ({**shared, "N": n, **peak._asdict()} for n, peak in zip(timed_ones, found)))


def foreseen(name: str, count: int, took: dict[str, tuple[int, float]]) -> float:
    """Seconds that a call should take, from what a shorter one took; 0 if unknown."""
    if name not in took:
        return 0.0
    at, seconds = took[name]
    return seconds * (count / at) ** (2 if name == "softmax" else 1)


def measure_ragged(result: Result, lengths: tuple[int, ...]) -> None:
    """One batch of very different lengths, packed and padded."""
    s = result.settings
    packed, padded = sequences.ragged(lengths, s.device)
    net = sequences.model("tssa", s.dtype, s.device)
    need = 8 * padded["x"].numel() * sequences.SIZE["mlp_dim"]  # the hidden features twice, roughly
    calls = {"packed": sequences.forward(net, packed)}
    if need < memory_budget(s.device):
        calls["padded"] = sequences.forward(net, padded)
    samples = paired(calls, s.rounds or 5, 20.0, 1, s.device)
    for name in ROWS:
        batch = {"packed": packed, "padded": padded}[name]
        record: dict[str, Any] = {"contestant": name, "lengths": list(lengths), "tokens": batch["x"].numel()}
        if name in samples:
            arguments = ["tssa", list(lengths), name == "packed", s.dtype, s.device]
            (peak,) = peaks("tost.bench.sequence_models:ragged_calls", arguments, 1, s.device)
            record |= {"ms": 1e3 * median(samples[name]), "over": ratio(samples[name], samples["packed"])}
            record |= peak._asdict()
        else:
            record |= {"ms": None, "note": f"needs {need / 2**30:.0f} GiB"}
        result.add("ragged", [record])


def report(result: Result) -> list[str]:
    """Time and peak over lengths, where softmax is left behind, and the ragged batch."""
    size = ", ".join(f"{name} {value}" for name, value in sequences.SIZE.items())
    parts = []
    for direction in ("forward", "forward+backward"):
        rows = result.of("time", direction=direction)
        title = f"**one sequence, {direction}** (classifier of sequences: {size}): milliseconds (times as long as tost)"
        cell, labels = timed("over_tost", "tssa"), sequences.MODELS
        parts.append(f"{title}\n\n" + pivot(rows, "N", cell, labels, head=lambda n: f"{n:,}"))
        rows = result.of("peak", direction=direction)
        parts.append("the same, peak MiB\n\n" + pivot(rows, "N", mebibytes, labels, head=lambda n: f"{n:,}"))
    last = [r for r in result.of("time", direction="forward") if r["contestant"] == "softmax" and r["ms"] is not None][
        -1
    ]
    parts.append(f"At {last['N']:,} tokens fused softmax attention takes {times(last['over_tost'])} as long as tost.")
    found = result.of("ragged")
    lengths = ", ".join(f"{n:,}" for n in found[0]["lengths"])
    lines = [
        [
            ROWS[r["contestant"]],
            f"{r['tokens']:,}",
            number(r["ms"]) if r["ms"] is not None else r["note"],
            mebibytes(r) if r["ms"] is not None else "",
        ]
        for r in found
    ]
    table = markdown(["", "tokens", "milliseconds", "peak MiB"], lines)
    return [*parts, f"**one batch of sequences of {lengths} tokens**, forward\n\n{table}"]
