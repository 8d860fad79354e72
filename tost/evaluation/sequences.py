"""Recompute the accuracy of a run on sequences from its saved weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from tost.data.sequences import IGNORE, collate
from tost.data.sources import load_sequences
from tost.evaluation.intervals import wilson_interval
from tost.training import load_run
from tost.training.runs import read_summary


@torch.inference_mode()
def evaluate_sequences(
    run: str | Path,
    *,
    data: dict[str, Any] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Accuracy of a finished run's weights on the sequences its recipe holds out.

    data: settings of the recipe's data to replace, such as {"path": ...} where they have moved.
    Returns {"run", "split", "sequences", "counted" (labels judged), "right", "accuracy", "interval" (95%), "majority"
    (the share of the most frequent class), "classes", "loss"}.
    Raises ValueError for a folder that is no finished run, damaged weights, or sequences of other classes.
    """
    from tost.training.sequence import Learner, packs, row_scores

    model, recipe = load_run(run)
    sets = load_sequences(replace(recipe.data, **(data or {})))
    trained = (read_summary(Path(run)) or {}).get("classes", sets.classes)
    if sets.classes != trained:
        raise ValueError(
            f"{run} was trained on the classes {trained[:5]}, ..., the sequences have {sets.classes[:5]}, ..."
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    learner = Learner(model.to(device)).eval()
    batches = DataLoader(
        sets.test,
        min(batch_size, recipe.run.batch_size),
        collate_fn=partial(collate, pack=packs(model)),
        num_workers=recipe.data.workers,
        generator=torch.Generator(),
    )
    total = torch.zeros(3, dtype=torch.float64)
    frequency = torch.zeros(len(sets.classes), dtype=torch.int64)
    for batch in tqdm(batches, desc="evaluate", unit="batch", leave=False):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        total += row_scores(learner(**batch)["logits"], batch["labels"]).sum(0).cpu()
        frequency += batch["labels"][batch["labels"] != IGNORE].cpu().bincount(minlength=len(frequency))
    right, counted, nats = int(total[0]), int(total[1]), float(total[2])
    return {
        "run": str(run),
        "split": sets.held_out,
        "sequences": len(sets.test),
        "counted": counted,
        "right": right,
        "accuracy": right / counted,
        "interval": wilson_interval(right, counted),
        "majority": int(frequency.max()) / counted,
        "classes": len(sets.classes),
        "loss": nats / counted,
    }
