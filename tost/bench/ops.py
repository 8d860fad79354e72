"""`tost bench ops`: the operator beside its rivals, behind a gate that checks values and gradients first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

import torch
from tqdm import tqdm

from tost.bench import memory
from tost.bench.contestants import CONTESTANTS, PUBLISHED, Case, Entry
from tost.bench.decode import decode_records
from tost.bench.files import write_json
from tost.bench.gate import Check, check_case, check_definition
from tost.bench.machine import machine
from tost.bench.measure import FEWEST_ROUNDS, paired, ratio
from tost.bench.plan import Plan, is_optional, make_plan
from tost.bench.tables import report

MEMORY_PATIENCE = 3  # a peak takes one call, a time several
HASTE_S = 3.0  # longest call whose memory is measured when time has run out


@dataclass
class Result:
    """All that a run found; lists of flat records, so that it is a table in any format."""

    machine: dict[str, str] = field(default_factory=machine)
    quick: bool = False
    absent: dict[str, str] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    saved: list[dict[str, Any]] = field(default_factory=list)
    decode: list[dict[str, Any]] = field(default_factory=list)

    @property
    def red(self) -> list[str]:
        """The gate's complaints."""
        return [check["said"] for check in self.checks if not check["green"]]


def bench_ops(
    quick: bool = False,
    device: Literal["cpu"] = "cpu",
    tokens: list[int] | None = None,
    rounds: int | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> int:
    """Time and memory of the operators beside the published formulas and softmax attention, unfused and fused.

    Values and gradients of everything timed are checked first, against float64; if one is wrong no speed-up is printed
    and the exit code is 1.

    Args:
        quick: two minutes instead of twenty: fewer sizes and rounds
        device: what to measure
        tokens: numbers of tokens of the comparison with softmax attention
        rounds: how often each contestant takes its turn
        out: folder for ops.json, ops.csv, and a plot ops.png (which needs the analysis extra)
        json: file for everything measured
    """
    if any(n < 1 for n in tokens or []) or (rounds is not None and rounds < 1):
        raise ValueError(f"bench ops expects numbers of tokens and rounds of at least 1, got {tokens} and {rounds}")
    result = measure_ops(make_plan(quick, tuple(sorted(tokens)) if tokens else None, rounds), quick)
    if json is not None:
        write_json(asdict(result), json)
    if out is not None:
        write_folder(result, out)
    if result.red:
        print("\n".join(["bench ops: wrong results, so no times:", *result.red]), file=sys.stderr)
        return 1
    print(report(asdict(result)))
    return 0


def measure_ops(plan: Plan, quick: bool) -> Result:
    """Run a plan: the gate and the times of every case, then memory, saved bytes and the decode step."""
    result = Result(quick=quick)
    plan.look_around()
    result.absent = plan.absent
    cases = plan.cases()
    groups = memory_groups(plan, cases)
    with tqdm(total=len(cases) + len(groups) + 1, unit="step", desc="checking", leave=False) as bar:
        _record_checks(result, check_definition())
        for case in cases:
            bar.set_description(f"{case.op} {case.direction}, {case.B} x {case.N} tokens")
            if result.red:
                return result
            time_case(plan, case, result)
            bar.update()
        bar.set_description("saved bytes and decode step")
        result.saved = list(saved_records(plan))
        result.decode = decode_records([name for name in ("eager", "cpu") if name not in plan.absent])
        bar.update()
        for name, group in groups.items():
            bar.set_description(f"peak memory of {CONTESTANTS[name].label}")
            result.memory += memory_records(plan, name, group)
            bar.update()
    return result


def time_case(plan: Plan, case: Case, result: Result) -> None:
    """Check and time all contestants of a case, and add what they took to the result."""
    obstacles = {name: plan.obstacle(name, case) for name in CONTESTANTS}
    torch._dynamo.reset()  # each case compiles its own shape; Dynamo gives up on a function after eight
    entries = {name: Entry(name, case) for name, obstacle in obstacles.items() if obstacle is None}
    _record_checks(result, check_case(case, list(entries.values())))
    if result.red:
        return
    rounds = FEWEST_ROUNDS if plan.late else plan.rounds
    samples = paired({name: entry.run for name, entry in entries.items()}, rounds, plan.case_s)
    for name, obstacle in obstacles.items():
        record = _case_record(case, name)
        if obstacle is None:
            taken = samples[name]
            plan.note(name, case, median(taken))
            record |= {
                "ms": 1e3 * median(taken),
                "quartiles_ms": [1e3 * q for q in quantiles(taken, n=4)[::2]] if len(taken) > 1 else None,
                "rounds": len(taken),
                "speed_up": ratio(samples[PUBLISHED], taken),
            }
            result.times.append(record)
        elif obstacle and name not in plan.absent:
            result.times.append({**record, "ms": None, "note": obstacle})


def memory_groups(plan: Plan, cases: list[Case]) -> dict[str, list[Case]]:
    """For each contestant the cases whose peaks are measured in one process, small before large."""
    chosen = [case for case in cases if case.train in plan.memory_directions and plan.over_tokens(case)]
    return {
        name: [case for case in chosen if name != "compiled" or case.N in plan.compiled_tokens]
        for name, contestant in CONTESTANTS.items()
        if contestant.kind != "floor" and name not in plan.absent
    }


def memory_records(plan: Plan, name: str, cases: list[Case]) -> list[dict[str, Any]]:
    """Peaks of one contestant; cases out of reach say why."""
    short = plan.elapsed > plan.deadline_s and is_optional(name)
    patience = HASTE_S if short else MEMORY_PATIENCE * plan.call_limit_s
    reasons = {case: plan.too_large(name, case, patience) for case in cases}
    measured = [case for case in cases if reasons[case] is None]
    found = dict(zip(measured, memory.peaks(name, measured))) if measured else {}
    return [{**_case_record(case, name), "bytes": found.get(case), "note": reasons[case]} for case in cases]


def saved_records(plan: Plan) -> Iterator[dict[str, Any]]:
    """What each contestant keeps for its backward pass, over the size of w."""
    for op in ("full", "causal"):
        case = Case(op, True, 1, 1024, 8, 48)
        for name, contestant in CONTESTANTS.items():
            if contestant.kind != "floor" and name not in plan.absent and name != "compiled":
                kept = memory.saved_bytes(name, case)
                yield {**_case_record(case, name), "bytes": kept, "over_w": kept / case.w_bytes}


def write_folder(result: Result, folder: Path) -> None:
    """ops.json always; if the gate is green also ops.csv and ops.png."""
    write_json(asdict(result), folder / "ops.json")
    if not result.red:
        from tost.analysis import benchmark_figure

        benchmark_figure(asdict(result)).save(folder / "ops.png")


def _record_checks(result: Result, checks: list[Check]) -> None:
    for check in checks:
        result.checks.append(
            {
                **_case_record(check.case, check.contestant),
                "what": check.what,
                "error": check.error,
                "tolerance": check.tolerance,
                "green": check.green,
                "said": str(check),
            }
        )


def _case_record(case: Case, name: str) -> dict[str, Any]:
    return {
        "contestant": name,
        "op": case.op,
        "direction": case.direction,
        "B": case.B,
        "N": case.N,
        "H": case.H,
        "D": case.D,
    }
