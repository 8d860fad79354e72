"""What each part of the model is for: `python -m benchmarks.ablation_study run`, then `... table`.

run        train what is missing, several at a time; a stopped run goes on from its checkpoint
table      the table of what is there, and every run as ablation_study.csv beside this file
"""

# L layers

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from tqdm import tqdm

from tost.analysis import fallen, save_csv

HERE = Path(__file__).parent

# name: what it is, the mixer, further options of the model
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tssa": ("TSSA + MLP, the model", "tssa", {}),
    "tssa-ista": ("TSSA + ISTA", "tssa", {"feed_forward": "ista"}),
    "unscaled": ("no normalisation in Pi, MLP", "tssa-unscaled", {}),
    "unscaled-ista": ("no normalisation in Pi, ISTA", "tssa-unscaled", {"feed_forward": "ista"}),
    "uniform": ("uniform Pi", "tssa-uniform", {}),
    "orthonormal": ("orthonormal U, and back through U", "tssa-orthonormal", {}),
    "decoupled": ("Pi from a projection of its own (after DMSA)", "tssa-decoupled", {}),
    "cbsa": ("contract and broadcast (after CBSA)", "cbsa", {}),
    "softmax": ("softmax attention", "softmax", {}),
    "none": ("no mixing between tokens", "none", {}),
}


def run(
    variants: Sequence[str] = tuple(VARIANTS),
    seeds: Sequence[int] = (0, 1, 2),
    recipe: str = "vision-digits",
    path: Path | None = None,
    epochs: float = 20,
    folder: Path = Path("runs/ablation-study"),
    workers: int = os.cpu_count() or 1,
) -> None:
    """Train every variant with every seed, `workers` at a time with one thread each.

    Args:
        variants: of VARIANTS
        seeds: of weights, order and augmentation
        recipe: a vision recipe
        path: folder of its images, where it needs one
        epochs: passes over them
        folder: where runs are kept, one folder for each recipe
        workers: processes
    """
    (folder / recipe).mkdir(parents=True, exist_ok=True)
    common = {"run.folder": folder / recipe, "run.epochs": epochs, **({"data.path": path} if path else {})}
    jobs = [(name, seed) for seed in seeds for name in variants]
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(jobs), unit="run") as bar:
        for job in [pool.submit(train, recipe, *job, common) for job in jobs]:
            bar.set_postfix_str(job.result())
            bar.update()


def train(recipe: str, name: str, seed: int, common: dict[str, Any]) -> str:
    """One run, in a process of its own; a finished one is left as it is."""
    run, (_, mixer, options) = f"{name}-{seed}", VARIANTS[name]
    folder = Path(common["run.folder"])
    if (folder / run / "summary.json").exists():
        return run
    settings = {**common, "run.name": run, "run.seed": seed, "model.mixer": mixer, "model.options": json.dumps(options)}
    command = [sys.executable, "-m", "tost", "train", recipe, *(f"--{key}={value}" for key, value in settings.items())]
    with open(folder / f"{run}.log", "w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise SystemExit(f"{run} failed; {folder / run}.log says why")
    return run


def table(folder: Path = Path("runs/ablation-study"), recipe: str = "vision-digits") -> None:
    """Accuracy on held-out images and what the rates do, mean and range over the seeds, as Markdown.

    Args:
        folder: where the runs are
        recipe: the recipe they trained
    """
    rows = [measured(path.parent) for path in tqdm(sorted((folder / recipe).glob("*/summary.json")), unit="run")]
    save_csv(rows, HERE / "ablation_study.csv")
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_name[row["variant"]].append(row)
    print("| | parameters | held-out accuracy, % | rate falls in: attention halves, blocks | heads a token uses |")
    print("|---|---|---|---|---|")
    for name, (what, _, _) in VARIANTS.items():
        found = by_name.get(name)
        if found:
            cells = [f"{found[0]['parameters']:,}", *(spread([row[key] for row in found], 2) for key in ("accuracy",))]
            halves, blocks = ([row[key] for row in found] for key in ("halves_fall", "blocks_fall"))
            falls = "" if halves[0] == "" else f"{spread(halves, 0)} / {spread(blocks, 0)} of {found[0]['layers']}"
            heads = [row["heads"] for row in found]
            print(f"| {what} | {' | '.join(cells)} | {falls} | {'' if heads[0] == '' else spread(heads, 2)} |")


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the range where the values differ: "97.3 (96.9 to 97.8)"."""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    mean = f"{statistics.mean(values):.{max(digits, 1)}f}"
    return low if low == high else f"{mean} ({low} to {high})"


def measured(run: Path) -> dict[str, Any]:
    """One finished run as a row: accuracy by its summary, rates and memberships by the recorders on held-out images."""
    import torch

    from tost.data import to_model_input
    from tost.rates import record_memberships, record_rates
    from tost.training import load_run
    from tost.training.build import build_images

    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    name, seed = run.name.rsplit("-", 1)
    model, recipe = load_run(run)
    row: dict[str, Any] = {
        "variant": name,
        "seed": int(seed),
        "epochs": recipe.run.epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": 100 * summary["test"]["accuracy"],
        "layers": len(model.blocks),
        **dict.fromkeys(("halves_fall", "blocks_fall", "heads"), ""),
    }
    if not recipe.model.mixer.startswith("tssa"):
        return row
    pixels = torch.stack([build_images(recipe).test[i]["pixels"] for i in range(200)])
    images = to_model_input(pixels, recipe.data.mean, recipe.data.std, recipe.data.image_size)
    record = record_rates(model, images)
    shares = torch.stack(list(record_memberships(model, images).values())).double()  # [L, B, N, H]
    heads = torch.special.entr(shares).sum(-1).exp().mean()
    return row | {"halves_fall": fallen(record, "mixed"), "blocks_fall": fallen(record), "heads": float(heads)}


if __name__ == "__main__":
    auto_cli([run, table], prog="python -m benchmarks.ablation_study")
