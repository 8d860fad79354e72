"""`tost bench language`: decoding, forward pass, training step and long texts, beside the published model and GPT-2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tost.analysis.style import save_csv
from tost.bench.files import write_json
from tost.bench.machine import installed, machine
from tost.extras import require

require("transformers", extra="language")

from tost.bench.language_gate import check_models  # noqa: E402
from tost.bench.language_plan import Plan, make_plan  # noqa: E402
from tost.bench.language_speed import decode_records, forward_records, training_records  # noqa: E402
from tost.bench.language_tables import report  # noqa: E402
from tost.bench.prefill import prefill_records  # noqa: E402


@dataclass
class Result:
    """All that a run found; lists of flat records, so that it is a table in any format."""

    model: str
    size: dict[str, int]
    quick: bool = False
    machine: dict[str, str] = field(default_factory=machine)
    checks: list[dict[str, Any]] = field(default_factory=list)
    decode: list[dict[str, Any]] = field(default_factory=list)
    forward: list[dict[str, Any]] = field(default_factory=list)
    forward_shares: dict[str, dict[str, float]] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    training_shares: dict[str, dict[str, float]] = field(default_factory=dict)
    prefill: list[dict[str, Any]] = field(default_factory=list)

    @property
    def red(self) -> list[str]:
        """The gate's complaints."""
        return [check["said"] for check in self.checks if not check["green"]]


def bench_language(
    quick: bool = False,
    model: str | None = None,
    rounds: int | None = None,
    out: Path | None = None,
    json: Path | None = None,
) -> int:
    """Time and memory of the language model beside the published one and GPT-2 of the same size.

    Logits, gradients and decoding are checked first; if one is wrong no speed-up is printed and the exit code is 1.

    Args:
        quick: a minute instead of half an hour: a small model and short texts
        model: a preset, whose size all models have (default: base, with --quick nano)
        rounds: how often each contestant takes its turn
        out: folder for language.json and language.csv
        json: file for everything measured
    """
    if rounds is not None and rounds < 1:
        raise ValueError(f"bench language expects at least 1 round, got {rounds}")
    result = measure_language(make_plan(quick, model, rounds), quick)
    if json is not None:
        write_json(asdict(result), json)
    if out is not None:
        write_folder(result, out)
    if result.red:
        print("\n".join(["bench language: wrong results, so no times:", *result.red]), file=sys.stderr)
        return 1
    print(report(asdict(result)))
    return 0


def measure_language(plan: Plan, quick: bool) -> Result:
    """Run a plan: the gate, and if it is green the measurements."""
    result = Result(plan.name, plan.size._asdict(), quick)
    result.machine["versions"] += f", transformers {installed('transformers')}"
    with tqdm(total=5, unit="part", desc="checking", leave=False) as bar:
        result.checks = [
            {**check._asdict(), "green": check.green, "said": str(check)} for check in check_models(plan.size)
        ]
        if result.red:
            return result
        bar.update()
        bar.set_description("decoding")
        result.decode = decode_records(plan)
        bar.update()
        bar.set_description("forward pass")
        result.forward, result.forward_shares = forward_records(plan)
        bar.update()
        bar.set_description("training step")
        result.training, result.training_shares = training_records(plan)
        bar.update()
        bar.set_description("long texts")
        result.prefill = prefill_records(plan.prefill)
        bar.update()
    return result


def write_folder(result: Result, folder: Path) -> None:
    """language.json always; if the gate is green also language.csv."""
    write_json(asdict(result), folder / "language.json")
    if not result.red:
        save_csv(rows(result), folder / "language.csv")


def rows(result: Result) -> Iterator[dict[str, Any]]:
    """Every number as a row of one table."""
    for what in ("decode", "forward", "training", "prefill"):
        for record in getattr(result, what):
            yield {"what": what, **record}
