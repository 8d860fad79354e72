"""Recall: sequences whose answers stand earlier in them, so that a model without memory can only guess.

associative  k1 v1 k2 v2 ... | k3 v3 k1 v1 ...   after the bar, the value of each key
copying      a b c d ... | a b c d ...           the same again
selective    . a . . b . c ... | a b c ...       what stood among the dots, in order
"""

# B sequences, n things to remember, N tokens

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from benchmarks.language_study.variants import options_of
from tost.files import atomic_write
from tost.models.language import ToSTForCausalLM, preset

TASKS = ("associative", "copying", "selective")
VARIANTS = ("paper", "softmax", "none-gated", "forget", "linear", "hybrid-linear")
SYMBOLS, BAR, DOT, PAD, V = 16, 32, 33, 34, 35  # keys are 0..15, values 16..31
LENGTHS = (2, 4, 8, 16)  # things to remember; training mixes 1 to 8
TRAINED, IGNORE = 8, -100


def sample(task: str, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One sequence of n things as (tokens [N], labels [N], counted at the answers alone)."""
    values = SYMBOLS + torch.randint(SYMBOLS, (n,), generator=generator)
    bar = torch.tensor([BAR])
    if task == "associative":
        keys, order = torch.randperm(SYMBOLS, generator=generator)[:n], torch.randperm(n, generator=generator)
        first, second = torch.stack([keys, values], 1), torch.stack([keys[order], values[order]], 1)
        tokens = torch.cat([first.flatten(), bar, second.flatten()])
        answers = torch.arange(len(tokens)) >= 2 * n + 2
        answers &= (torch.arange(len(tokens)) - 2 * n) % 2 == 0
    else:
        shown = values
        if task == "selective":  # among as many dots
            shown = torch.full((2 * n,), DOT)
            shown[torch.randperm(2 * n, generator=generator)[:n].sort().values] = values
        tokens = torch.cat([shown, bar, values])
        answers = torch.arange(len(tokens)) > len(shown)
    return tokens, torch.where(answers, tokens, IGNORE)


class Sequences(Dataset):
    """Endless training data by number: item i has between 1 and TRAINED things, as its own seed says."""

    def __init__(self, task: str, seed: int, count: int, n: int | None = None) -> None:
        self.task, self.seed, self.count, self.n = task, seed, count, n

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 10_000_019 + i)
        n = self.n or int(torch.randint(1, TRAINED + 1, (1,), generator=generator))
        return sample(self.task, n, generator)


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Padded on the right, which causal models don't see."""
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([tokens for tokens, _ in rows], batch_first=True, padding_value=PAD),
        "labels": pad([labels for _, labels in rows], batch_first=True, padding_value=IGNORE),
    }


def train(task: str, variant: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Accuracy of the answers by length, after `steps` of 64 sequences; kept in the folder as JSON."""
    from transformers import Trainer, TrainingArguments

    path = folder / f"{task}-{variant}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    options = {**options_of(variant, "small"), "num_hidden_layers": 4 if variant.startswith("hybrid") else 2}
    model = ToSTForCausalLM(preset("nano", vocab_size=V, max_position_embeddings=256, **options))
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.0,
        seed=seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        logging_strategy="no",
        use_cpu=True,
        remove_unused_columns=False,
    )
    Trainer(model, arguments, train_dataset=Sequences(task, 1 + seed, 64 * steps), data_collator=collate).train()
    result = {
        "task": task,
        "variant": variant,
        "seed": seed,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": {n: accuracy(model.eval(), Sequences(task, 0, 256, n)) for n in LENGTHS},
    }
    with atomic_write(path, "w") as file:
        file.write(json.dumps(result) + "\n")
    return result


@torch.inference_mode()
def accuracy(model: ToSTForCausalLM, sequences: Sequences) -> float:
    """Share of the answers that are the most likely token."""
    batch = collate([sequences[i] for i in range(len(sequences))])
    guess, label = model(batch["input_ids"], use_cache=False).logits[:, :-1].argmax(-1), batch["labels"][:, 1:]
    return float((guess == label)[label != IGNORE].float().mean())


def recall(
    folder: Path = Path("runs/language-study/recall"),
    variants: Sequence[str] = VARIANTS,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 1000,
    workers: int = os.cpu_count() or 1,
) -> None:
    """Train every variant on every recall task with every seed: C = 64, two layers (hybrids four).

    Args:
        folder: where results are kept
        variants: of variants.VARIANTS
        seeds: of weights and data
        steps: of 64 sequences
        workers: processes with one thread each
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(task, variant, seed) for seed in seeds for task in TASKS for variant in variants]
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        tqdm(total=len(jobs), unit="run") as bar,
    ):
        for job in [pool.submit(train, *job, steps, folder) for job in jobs]:
            found = job.result()
            bar.set_postfix_str(f"{found['task']} {found['variant']} {found['accuracy']}")
            bar.update()
