"""`tost bench GROUP`: the frame that all groups share.

A group is a module with `measure(result)`, which fills in checks and records and stops where a check is red,
`report(result)`, which gives paragraphs and tables of Markdown, and, if it draws, `figures(result)`: {name: Drawing}.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from tost.bench.record import replace_section, results_page
from tost.bench.result import Result
from tost.bench.settings import Settings
from tost.bench.tables import header

GROUPS = ("ops", "scale", "memory", "models", "decode", "train", "drift", "sequences")


def bench(
    group: Literal["ops", "scale", "memory", "models", "decode", "train", "drift", "sequences"],
    quick: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    rounds: int | None = None,
    json: Path | None = None,
    out: Path | None = None,
    record: bool = False,
) -> int:
    """Time and memory beside the rivals, in one process, behind a gate of values and gradients.

    What is timed is checked first, on the same tensors; if something is wrong, nothing is reported and the exit code
    is 1. docs/benchmarks.md says what each group measures and how to read it.

    Args:
        group: ops: the operators at sizes of real layers, and how near they come to copying; scale: time and memory
            over tokens, to a million; memory: peaks of operator, block and training step, states, long texts; models:
            whole models and blocks, and where their time goes; decode: one more token; train: a training step; drift:
            exactness and memberships of very long streams; sequences: whole models on one sequence of up to a million
            tokens, and on a ragged batch
        quick: two minutes instead of five to ten: fewer and smaller sizes
        device: what to measure on
        dtype: precision of the tensors and weights (autocast in train)
        rounds: how often each contestant takes its turn
        json: file for everything measured
        out: folder for GROUP.json, GROUP.csv, GROUP.md and plots (which need the analysis extra)
        record: replace this group's section in docs/results.md of the checkout that this is run in
    """
    settings = Settings(device, dtype, quick, rounds)
    page = results_page(group, device) if record else None
    module, result = load(group), run(group, settings)
    if json is not None:
        write_json(result, json)
    if out is not None:
        write_folder(module, result, out)
    if result.red:
        print("\n".join([f"bench {group}: wrong results, so no times:", *result.red]), file=sys.stderr)
        return 1
    text = markdown(module, result)
    if page is not None:
        replace_section(page, group, device, text)
    print(text)
    return 0


def load(group: str) -> ModuleType:
    """The module of a group."""
    return importlib.import_module(f"tost.bench.groups.{group}")


def run(group: str, settings: Settings) -> Result:
    """Measure a group; of a red one only the checks remain."""
    result, started = Result(group, settings), time.monotonic()
    load(group).measure(result)
    if result.red:
        result.records.clear()
    result.seconds = time.monotonic() - started
    return result


def markdown(module: ModuleType, result: Result) -> str:
    """The whole report: command, machine, gate, absentees, then the group's own tables."""
    return "\n\n".join([f"`{command_line(result)}`", header(result.machine), *notes(result), *module.report(result)])


def command_line(result: Result) -> str:
    """What to type for the same measurement."""
    s = result.settings
    words = ["tost bench", result.group, *(["--quick"] if s.quick else [])]
    words += [f"--device {s.device}"] if s.device != "cpu" else []
    words += [f"--dtype {s.dtype}"] if s.half else []
    return " ".join(words + ([f"--rounds {s.rounds}"] if s.rounds else []))


def notes(result: Result) -> Iterator[str]:
    """How far from its limits the gate was, and who is missing."""
    worst = max(result.checks, key=lambda check: check["error"] / check["tolerance"])
    yield (
        f"Gate: green, {len(result.checks)} comparisons of values and gradients, nearest to its limit: "
        f"{worst['said']}. Measured in {result.seconds / 60:.1f} minutes."
    )
    reasons: dict[str, list[str]] = {}
    for name, why in result.absent.items():
        reasons.setdefault(why, []).append(name)
    if reasons:
        yield "Not taking part: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items()) + "."


def as_json(result: Result) -> dict[str, Any]:
    """A result as plain data."""
    return {**asdict(result), "command": command_line(result)}


def write_json(result: Result, path: str | Path) -> None:
    """A result as JSON, whole or not at all."""
    from tost.bench.files import write_json

    write_json(as_json(result), path)


def write_folder(module: ModuleType, result: Result, folder: Path) -> None:
    """GROUP.json always; if the gate is green also .csv, .md, and plots as .png and .svg."""
    from tost.analysis.style import save_csv
    from tost.files import atomic_write

    name = result.group
    write_json(result, folder / f"{name}.json")
    if result.red:
        return
    save_csv(result.records, folder / f"{name}.csv")
    with atomic_write(folder / f"{name}.md", "w") as file:
        file.write(markdown(module, result) + "\n")
    for title, drawing in getattr(module, "figures", lambda _: {})(result).items():
        drawing.save(folder / f"{title}.png")
        drawing.save(folder / f"{title}.svg")
