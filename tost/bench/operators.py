"""What the groups about the operator share: check and time a case, and measure its peaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from typing import Any

import torch

from tost.bench.attention import kernel_of
from tost.bench.contestants import CONTESTANTS, PUBLISHED, Case, Entry, Tensors
from tost.bench.gate import check_case
from tost.bench.limits import Limits
from tost.bench.measure import Call, paired, ratio
from tost.bench.peak import peaks
from tost.bench.result import Result
from tost.bench.roofline import work

Record = dict[str, Any]


def time_case(
    result: Result, limits: Limits, case: Case, names: Sequence[str], rounds: int, seconds: float, slow: int = 2
) -> bool:
    """Check and time contestants on a case, and add what they took to the result; False if one is wrong."""
    obstacles = {name: limits.obstacle(name, case) for name in names}
    if obstacles.get("compiled", "") is None:
        torch._dynamo.reset()  # each case compiles its own shape; Dynamo gives up on a function after eight
    tensors = Tensors(case)
    entries = {name: Entry(name, case, tensors) for name, obstacle in obstacles.items() if obstacle is None}
    if not result.check(check_case(case, list(entries.values()), tensors)):
        return False
    samples = paired({name: entry.run for name, entry in entries.items()}, rounds, seconds, slow, case.device)
    for name, taken in samples.items():
        limits.note(name, case, median(taken))
    result.add("time", time_records(case, samples))
    result.add("time", ({**case.record(name), "ms": None, "note": why} for name, why in obstacles.items() if why))
    if "sdpa" in entries and not case.train:
        kernel = kernel_of(entries["sdpa"].run)
        result.add("kernel", [{**case.record("sdpa"), "kernel": kernel}])
    return True


def time_records(case: Case, samples: dict[str, list[float]]) -> Iterator[Record]:
    """Median, quartiles, ratio to the published formula, and how near to the copy's bandwidth."""
    copied = work("copy", case).bytes or 0.0
    for name, taken in samples.items():
        ms, (moved, flops) = median(taken), work(name, case)
        record = {
            **case.record(name),
            "ms": 1e3 * ms,
            "quartiles_ms": [1e3 * q for q in quantiles(taken, n=4)[::2]] if len(taken) > 1 else None,
            "rounds": len(taken),
            "speed_up": ratio(samples[PUBLISHED], taken) if PUBLISHED in samples else None,
            "bytes_moved": moved,
            "flops": flops,
            "gflops_per_s": None if not flops else flops / ms / 1e9,
        }
        if "copy" in samples:
            record["gb_per_s"] = None if moved is None else moved / ms / 1e9
            record["copy_gb_per_s"] = copied / median(samples["copy"]) / 1e9
            record["of_copy"] = None if moved is None else moved / copied * ratio(samples["copy"], taken)
        yield record


def operator_peaks(limits: Limits, name: str, cases: Sequence[Case]) -> list[Record]:
    """Peaks of one contestant, in rising order of size; cases out of reach say why."""
    reasons = {case: limits.peak_obstacle(name, case) for case in cases}
    chosen = [case for case in cases if reasons[case] is None]
    device = cases[0].device if cases else "cpu"
    arguments = [name, [list(case) for case in chosen]]
    found = dict(zip(chosen, peaks("tost.bench.operators:calls", arguments, len(chosen), device)))
    records = []
    for case in cases:
        if reasons[case] is None:
            records.append({**case.record(name), "bytes": found[case].bytes, "note": found[case].note})
        elif reasons[case]:
            records.append({**case.record(name), "bytes": None, "note": reasons[case]})
    return records


def calls(name: str, shapes: Sequence[Sequence[Any]]) -> Iterator[Call]:
    """The calls of a contestant whose peaks are measured; the kernels are warm before."""
    cases = [Case(*shape) for shape in shapes]
    for op, train in {(case.op, case.train) for case in cases}:
        Entry(name, cases[0]._replace(op=op, train=train, B=1, N=128)).run()
    for case in cases:
        entry = Entry(name, case)
        if name == "compiled":
            entry.run()  # compiling is not calling
        yield entry.run
        del entry


def saved_bytes(name: str, case: Case) -> int:
    """Bytes that the forward pass keeps for the backward beside its inputs."""
    entry = Entry(name, case)
    known = {x.untyped_storage().data_ptr() for x in entry.inputs}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = entry.function(*entry.inputs)  # kept until counted, or a freed address could be counted once for two
    del y
    return sum(kept.values())


def names_of(result: Result, *kinds: str) -> list[str]:
    """Contestants of these kinds (all if none is given) that can run."""
    return [n for n, c in CONTESTANTS.items() if n not in result.absent and (not kinds or c.kind in kinds)]
