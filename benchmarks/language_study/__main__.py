"""The language study: `python -m benchmarks.language_study run`, then `... table`; docs/results.md says what it found.

run        train what is missing, several at a time; a stopped run goes on from its checkpoint
recall     train the recall tasks that are missing
positions  what the kinds of positions do beyond the trained length, of runs that are there
table      the tables and the picture of what is there
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jsonargparse import auto_cli
from tqdm import tqdm

from benchmarks.language_study.positions import positions
from benchmarks.language_study.recall import recall
from benchmarks.language_study.tables import table
from benchmarks.language_study.variants import MAIN, SIZES, VARIANTS, options_of

RECIPE = Path(__file__).with_name("recipe.yaml")


def run(
    sizes: Sequence[str] = tuple(SIZES),
    variants: Sequence[str] = MAIN,
    seeds: Sequence[int] = (0, 1, 2),
    folder: Path = Path("runs/language-study"),
    workers: int = os.cpu_count() or 1,
    steps: int = 1000,
) -> None:
    """Train every variant at every size with every seed, `workers` at a time with one thread each.

    Args:
        sizes: of variants.SIZES
        variants: of variants.VARIANTS, or the word all
        seeds: of weights and order
        folder: where runs are kept
        workers: processes
        steps: of 8 x 256 tokens
    """
    names = list(VARIANTS) if list(variants) == ["all"] else variants
    jobs = [(size, name, seed) for seed in seeds for size in sizes for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(jobs), unit="run") as bar:
        for job in [pool.submit(train, folder, *job, steps) for job in jobs]:
            bar.set_postfix_str(job.result())
            bar.update()


def train(folder: Path, size: str, name: str, seed: int, steps: int) -> str:
    """One run, in a process of its own; a finished one is left as it is."""
    run = f"{size}-{name}-{seed}"
    if (folder / run / "summary.json").exists():
        return run
    settings = {"run.name": run, "run.folder": folder, "run.seed": seed, "run.steps": steps}
    command = [sys.executable, "-m", "tost", "train", str(RECIPE)]
    command += [f"--{key}={value}" for key, value in settings.items()]
    command += [f"--model.options={json.dumps(options_of(name, size))}"]
    with open(folder / f"{run}.log", "w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise SystemExit(f"{run} failed; {folder / run}.log says why")
    return run


if __name__ == "__main__":
    auto_cli([run, recall, positions, table], prog="python -m benchmarks.language_study")
