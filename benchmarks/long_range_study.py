"""Sequences, ours beside softmax and no mixing: `python -m benchmarks.long_range_study run`, then `... table`.

run        train what is missing, several at a time; a stopped run goes on from its checkpoint
table      the table of what is there, and every run as long_range_study.csv beside this file
first      how right one is on ListOps by its first token alone
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from tqdm import tqdm

from benchmarks.ablation_study import spread
from tost.analysis import save_csv
from tost.training import load_recipe

HERE = Path(__file__).parent
MIXERS = {"tssa": "TSSA", "linear": "linear attention", "softmax": "softmax attention", "none": "no mixing"}


def run(
    tasks: Sequence[str] = ("lra-listops", "lra-image", "lra-text", "lra-pathfinder"),
    mixers: Sequence[str] = tuple(MIXERS),
    seeds: Sequence[int] = (0, 1),
    variant: str | None = "quick",
    max_length: int | None = None,
    paths: dict[str, Path] | None = None,
    folder: Path = Path("runs/long-range-study"),
    workers: int = os.cpu_count() or 1,
) -> None:
    """Train every task with every mixer and seed, `workers` at a time with one thread each.

    Args:
        tasks: recipes; one may be written RECIPE:NAME for a set of that --data.name
        mixers: of MIXERS
        seeds: of weights and order; the data are the same
        variant: quick or shared, none for the recipes as they are
        max_length: shorter sequences than the recipe's, so that quadratic attention can be trained too
        paths: where the data of a recipe are, '{"lra-text": "aclImdb"}'; a task that needs one and has none is left out
        folder: where runs are kept, one folder for each task
        workers: processes
    """
    known = paths or {}
    tasks = [task for task in tasks if not needs_path(task) or task in known]
    jobs = [(task, mixer, seed) for seed in seeds for mixer in mixers for task in tasks]
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(jobs), unit="run") as bar:
        for job in [pool.submit(train, *job, variant, max_length, known.get(job[0]), folder) for job in jobs]:
            bar.set_postfix_str(job.result())
            bar.update()


def needs_path(task: str) -> bool:
    """Whether the recipe reads files that nobody ships."""
    return load_recipe(task.partition(":")[0]).data.source in ("imdb", "aan", "cifar-grey", "fasta", "series")


def train(
    task: str, mixer: str, seed: int, variant: str | None, max_length: int | None, path: Path | None, folder: Path
) -> str:
    """One run, in a process of its own; a finished one is left as it is."""
    recipe, _, name = task.partition(":")
    where = folder / "-".join(part for part in (recipe, name, variant, max_length and str(max_length)) if part)
    run = where / f"{mixer}-{seed}"
    if (run / "summary.json").exists():
        return str(run)
    where.mkdir(parents=True, exist_ok=True)
    settings = {"run.folder": where, "run.name": run.name, "run.seed": seed, "model.mixer": mixer}
    settings |= {"data.name": name} if name else {}
    settings |= {"data.path": path} if path else {}
    settings |= {"data.max_length": max_length} if max_length else {}
    command = [sys.executable, "-m", "tost", "train", recipe, *([f"--{variant}"] if variant else [])]
    command += [f"--{key}={value}" for key, value in settings.items()]
    with open(where / f"{run.name}.log", "w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise SystemExit(f"{run} failed; {where / run.name}.log says why")
    return str(run)


def table(folder: Path = Path("runs/long-range-study")) -> None:
    """Accuracy on held-out sequences, mean and range over the seeds, and seconds of training, as Markdown.

    Args:
        folder: where the runs are
    """
    rows = [measured(path.parent) for path in sorted(folder.glob("*/*/summary.json"))]
    if not rows:
        raise SystemExit(f"{folder}: no finished run; `python -m benchmarks.long_range_study run` makes them")
    save_csv(rows, HERE / "long_range_study.csv")
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["task"], row["mixer"]].append(row)
    mixers = [name for name in MIXERS if any(mixer == name for _, mixer in cells)]
    print("| task | tokens | most frequent class | " + " | ".join(MIXERS[name] for name in mixers) + " |")
    print("|---" * (3 + len(mixers)) + "|")
    for task in dict.fromkeys(row["task"] for row in rows):
        some = next(row for row in rows if row["task"] == task)
        found = [cells.get((task, mixer), []) for mixer in mixers]
        told = " | ".join(cell(runs) for runs in found)
        print(f"| {task} | {some['longest']:,} | {some['majority']:.1f} | {told} |")


def cell(runs: list[dict[str, Any]]) -> str:
    """Accuracy of the runs, how many, seconds of one."""
    if not runs:
        return ""
    seconds = sorted(row["seconds"] for row in runs)[len(runs) // 2]
    return f"{spread([row['accuracy'] for row in runs], 1)}; {len(runs)} x {seconds:,.0f} s"


def measured(run: Path) -> dict[str, Any]:
    """One finished run as a row."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    mixer, seed = run.name.rsplit("-", 1)
    facts = summary["data"]["test"]
    return {
        "task": run.parent.name,
        "mixer": mixer,
        "seed": int(seed),
        "steps": summary["steps"],
        "parameters": summary["parameters"],
        "longest": facts["longest"],
        "majority": 100 * facts["commonest"],
        "accuracy": 100 * summary["test"]["accuracy"],
        "seconds": summary["seconds"],
    }


def first(samples: int = 20000, max_length: int | None = None) -> None:
    """Accuracy of the most frequent value of each outermost operator: what no mixing between tokens can find out.

    Args:
        samples: training expressions
        max_length: as run's
    """
    import numpy as np

    from tost.data.sources import SequenceOptions, load_sequences

    sets = load_sequences(SequenceOptions("listops", samples=samples, max_length=max_length))
    operators, labels = (sets.train.values[sets.train.offsets[:-1]], sets.train.labels)
    guess = {int(op): int(np.bincount(labels[operators == op]).argmax()) for op in np.unique(operators)}
    asked = sets.test.values[sets.test.offsets[:-1]]
    right = float(np.mean([guess[int(op)] == label for op, label in zip(asked, sets.test.labels)]))
    print(f"{right:.1%} of {len(asked)} by the outermost operator alone")


if __name__ == "__main__":
    auto_cli([run, table, first])
