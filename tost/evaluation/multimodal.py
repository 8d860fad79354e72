"""Recompute from its saved weights how well a run over images and text answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from tost.data.image_text import Batches, load_image_text
from tost.data.tokens import token_bytes
from tost.evaluation.intervals import wilson_interval
from tost.training import load_run
from tost.training.runs import read_summary


@torch.inference_mode()
def evaluate_multimodal(
    run: str | Path,
    *,
    data: dict[str, Any] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """How many answers of a finished run are right to the letter, on images and questions its recipe holds out.

    data: settings of the recipe's data to replace, such as {"path": ...} where they have moved.
    Returns {"run", "split", "questions", "right", "accuracy", "interval" (95%), "loss" (nats a token of the answers),
    "perplexity", "bits_per_byte", "bytes", "tokens", "kinds"}, kinds: of each kind {"questions", "right", "accuracy",
    "interval", "majority" (the share of its most frequent answer)}.
    Raises ValueError for a folder that is no finished run, damaged weights, or questions of other kinds.
    """
    from tost.models.multimodal import ToSTProcessor
    from tost.training.multimodal import answer_scores, summed

    model, recipe = load_run(run)
    options = replace(recipe.data, **(data or {}))
    sets = load_image_text(options)
    trained = (read_summary(Path(run)) or {}).get("kinds", sets.kinds)
    if not set(sets.kinds) <= set(trained):
        raise ValueError(f"{run} was trained on the questions {', '.join(trained)}, got {', '.join(sets.kinds)}")
    processor = ToSTProcessor.from_pretrained(run)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    batches = DataLoader(
        sets.test,
        min(batch_size, recipe.run.batch_size),
        collate_fn=Batches(processor, options.hide),
        num_workers=options.workers,
        generator=torch.Generator(),
    )
    model, size = model.to(device), torch.from_numpy(token_bytes(processor.tokenizer))
    scores: list[torch.Tensor] = []
    written: list[str] = []
    for batch in tqdm(batches, desc="evaluate", unit="batch", leave=False):
        inputs = {name: batch[name].to(device) for name in ("input_ids", "pixel_values")}
        logits = model(**inputs, use_cache=False).logits
        scores.append(answer_scores(logits, batch["labels"].to(device), size).cpu())
        written += [str(label[label >= 0].tolist()) for label in batch["labels"]]
    rows = torch.cat(scores).numpy()
    found, right = summed(rows, sets.kinds), int(rows[:, 0].sum())
    K = len(sets.kinds)
    kinds = {name: _share(rows[i::K, 0], Counter(written[i::K])) for i, name in enumerate(sets.kinds) if i < len(rows)}
    return {
        "run": str(run),
        "split": sets.held_out,
        "questions": len(rows),
        "right": right,
        "accuracy": right / len(rows),
        "interval": wilson_interval(right, len(rows)),
        **{name: found[name] for name in ("loss", "perplexity", "bits_per_byte")},
        "bytes": int(found["bytes"]),
        "tokens": int(rows[:, 1].sum()),
        "kinds": kinds,
    }


def _share(right: Any, answers: Counter[str]) -> dict[str, Any]:
    count, hits = len(right), int(right.sum())
    return {
        "questions": count,
        "right": hits,
        "accuracy": hits / count,
        "interval": wilson_interval(hits, count),
        "majority": answers.most_common(1)[0][1] / count,
    }
