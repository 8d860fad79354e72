"""What each kind of positions does to the loss beyond the length it was trained at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.language_study.variants import VARIANTS
from tost.data.text import load_text
from tost.data.tokens import load_tokenizer
from tost.models.language import ToSTForCausalLM
from tost.training import load_run
from tost.training.language import text_options

LONG = 1024
PARTS = ((1, 256), (256, 512), (512, 1024))  # tokens of a row; training saw the first part


def positions(folder: Path = Path("runs/language-study"), size: str = "medium", seed: int = 0) -> None:
    """Loss on rows of 1024 held-out tokens, of models trained at 256, by place in the row.

    Shows those of the runs paper, paper-orderless, tssa and forget that are finished (`run --variants '[...]'`).

    Args:
        folder: where the runs are
        size: of variants.SIZES
        seed: of the runs
    """
    lines = [
        "| model | positions | " + " | ".join(f"tokens {a} to {b}" for a, b in PARTS) + " |",
        "|---|---|---|---|---|",
    ]
    rows = None
    for variant, mode in (
        ("paper", "clamped"),
        ("paper", "stretched"),
        ("paper-orderless", "none"),
        ("tssa", "none"),
        ("forget", "none"),
    ):
        run = folder / f"{size}-{variant}-{seed}"
        if not (run / "summary.json").exists():
            continue
        _, recipe = load_run(run)
        if rows is None:
            options = replace(text_options(recipe), context=LONG)
            text = load_text(options, load_tokenizer(str(run))).test
            rows = torch.stack([row["ids"] for row in text if len(row["starts"]) == 1])
        losses = by_part(opened(run, mode), rows)
        lines.append(f"| {VARIANTS[variant].what} | {mode} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |")
    print("\n".join(lines))


def opened(run: Path, mode: str) -> Any:
    """The run's model with its positions made to reach LONG tokens."""
    if mode == "clamped":
        return ToSTForCausalLM.from_pretrained(run, position_mode="clamped").eval()
    model = ToSTForCausalLM.from_pretrained(run).eval()
    if mode == "stretched":
        model.resize_position_embeddings(LONG)
    return model


@torch.inference_mode()
def by_part(model: Any, rows: torch.Tensor) -> list[float]:
    """Mean nats of the tokens in each of PARTS.  rows: [B, LONG]."""
    nats = []
    for batch in rows.split(8):
        logits = model(batch, use_cache=False).logits[:, :-1].transpose(1, 2)
        nats.append(F.cross_entropy(logits, batch[:, 1:], reduction="none"))
    whole = F.pad(torch.cat(nats), (1, 0))
    return [float(whole[:, a:b].mean()) for a, b in PARTS]
