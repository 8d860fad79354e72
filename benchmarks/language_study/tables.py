"""What the runs found: results.csv beside this file, Markdown on the terminal, a picture for the docs."""

# N tokens of context

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers.utils import logging

from benchmarks.language_study.variants import SIZES, VARIANTS, options_of
from tost.analysis.style import Drawing, Theme
from tost.data.packing import IGNORE, collate
from tost.data.text import load_text
from tost.data.tokens import load_tokenizer
from tost.files import atomic_write
from tost.training import load_run
from tost.training.language import text_options

HERE = Path(__file__).parent
PICTURE = HERE.parents[1] / "docs" / "images" / "language-study.png"
SHOWN = ("none-gated", "forget", "linear", "softmax-gated", "hybrid-linear")
BINS = 8  # parts of the context over which the loss is shown


def table(folder: Path = Path("runs/language-study")) -> None:
    """Collect finished runs of `folder` into results.csv and recall.csv, and print and draw what all of them say.

    Args:
        folder: where the runs are
    """
    kept = read_csv(HERE / "results.csv")
    known = {(row["size"], row["variant"], row["seed"], row["steps"]) for row in kept}
    text = None
    logging.disable_progress_bar()
    for path in sorted(folder.glob("*/summary.json")):
        size, rest = path.parent.name.split("-", 1)
        variant, seed = rest.rsplit("-", 1)
        summary = json.loads(path.read_text(encoding="utf-8"))
        if (size, variant, seed, str(summary["steps"])) in known:
            continue
        model, recipe = load_run(path.parent)
        text = text or load_text(text_options(recipe), load_tokenizer(str(path.parent)))
        kept.append(
            {
                "size": size,
                "variant": variant,
                "seed": seed,
                "steps": str(summary["steps"]),
                "parameters": str(summary["parameters"]),
                "loss": f"{summary['test']['loss']:.5f}",
                "bits_per_byte": f"{summary['test']['bits_per_byte']:.5f}",
                **{f"loss_{i}": f"{x:.5f}" for i, x in enumerate(by_position(model, text.test))},
            }
        )
    kept.sort(key=lambda row: (row["size"], list(VARIANTS).index(row["variant"]), row["seed"]))
    write_csv(kept, HERE / "results.csv")
    for size in SIZES:
        print(markdown(size, [row for row in kept if row["size"] == size]))
    print(recall_table(folder / "recall"))
    drawing(kept).save(PICTURE)


@torch.inference_mode()
def by_position(model: Any, rows: Any) -> list[float]:
    """Nats a token over BINS equal parts of the context, of rows that one document fills."""
    total, count = torch.zeros(rows.context), torch.zeros(rows.context)
    for batch in DataLoader([row for row in rows if len(row["starts"]) == 1], batch_size=32, collate_fn=collate):
        labels = batch["labels"]
        logits = model(batch["input_ids"], use_cache=False).logits[:, :-1].transpose(1, 2)
        nats = F.cross_entropy(logits, labels[:, 1:], ignore_index=IGNORE, reduction="none")
        total[1:] += nats.sum(0)
        count[1:] += (labels[:, 1:] != IGNORE).sum(0)
    parts = zip(total.chunk(BINS), count.chunk(BINS))
    return [float(nats.sum() / tokens.sum()) for nats, tokens in parts]


def markdown(size: str, rows: Sequence[Mapping[str, str]]) -> str:
    """One row a variant: mean and spread over the seeds, and the share of the gap that it closes."""
    losses = grouped(rows, "loss")
    lines = [
        f"\n{size}: C = {SIZES[size]['hidden_size']}, nats a token on held-out text\n",
        "| | loss | seeds | parameters | share of the gap |",
        "|---|---|---|---|---|",
    ]
    for name, values in losses.items():
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        parameters = next(int(row["parameters"]) for row in rows if row["variant"] == name)
        share = gap_share(name, losses, size)
        told = "" if share is None else f"{share:.0%}"
        lines.append(
            f"| {VARIANTS[name].what} | {statistics.mean(values):.3f}{spread} | {len(values)} | {parameters:,} "
            f"| {told} |"
        )
    return "\n".join(lines)


def gap_share(name: str, losses: Mapping[str, Sequence[float]], size: str) -> float | None:
    """How far from nothing between tokens (0) to softmax in all layers (1), both with the same gate and convolution."""
    gated = "-gated" if options_of(name, size).get("output_gate") else ""
    control, best = f"none{gated}", f"softmax{gated}"
    if control not in losses or best not in losses or not VARIANTS[name].options.get("conv_width"):
        return None
    low, high = statistics.mean(losses[control]), statistics.mean(losses[best])
    return (low - statistics.mean(losses[name])) / (low - high)


def recall_table(folder: Path) -> str:
    """Answers right by task, variant and length, mean over the seeds, of the runs in `folder` and of recall.csv."""
    kept = {(row["task"], row["variant"], row["seed"]): row for row in read_csv(HERE / "recall.csv")}
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        row = {key: str(found[key]) for key in ("task", "variant", "seed", "steps", "parameters")}
        kept[row["task"], row["variant"], row["seed"]] = {
            **row,
            **{n: f"{x:.4f}" for n, x in found["accuracy"].items()},
        }
    if not kept:
        return ""
    rows = [kept[key] for key in sorted(kept)]
    write_csv(rows, HERE / "recall.csv")
    lengths = [key for key in rows[0] if key.isdigit()]
    lines = [
        "\nAnswers right, by how many things there were to remember (trained on 1 to 8)\n",
        "| task | | " + " | ".join(lengths) + " |",
        "|---|---|" + "---|" * len(lengths),
    ]
    for task in sorted({row["task"] for row in rows}):
        for name in (n for n in VARIANTS if any(row["variant"] == n for row in rows)):
            chosen = [row for row in rows if (row["task"], row["variant"]) == (task, name)]
            cells = [f"{statistics.mean(float(row[n]) for row in chosen):.0%}" for n in lengths] if chosen else []
            lines.append(f"| {task} | {VARIANTS[name].what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawing(rows: Sequence[Mapping[str, str]]) -> Drawing:
    """Loss over the place in the context, for the larger size."""
    size = list(SIZES)[-1]
    curves = [
        {"variant": name, "place": i, "nats": statistics.mean(grouped(rows, f"loss_{i}", size)[name])}
        for name in SHOWN
        if name in grouped(rows, "loss", size)
        for i in range(BINS)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        for name, colour in zip(SHOWN, theme.series):
            line = [curve["nats"] for curve in curves if curve["variant"] == name]
            axes.plot([(i + 0.5) / BINS for i in range(len(line))], line, color=colour, label=VARIANTS[name].what)
        axes.set_xlabel("place in the context of 256 tokens")
        axes.set_ylabel("nats a token")
        axes.set_title("What the context is worth")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)

    return Drawing(draw, (7.0, 4.6), "Loss by place in the context: memory makes it fall further.", curves)


def grouped(rows: Iterable[Mapping[str, str]], column: str, size: str | None = None) -> dict[str, list[float]]:
    """Values of a column by variant, in the order of VARIANTS."""
    found = defaultdict(list)
    for row in rows:
        if size in (None, row["size"]):
            found[row["variant"]].append(float(row[column]))
    return {name: found[name] for name in VARIANTS if name in found}


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write rows of the same columns."""
    if rows:
        with atomic_write(path, "w") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
