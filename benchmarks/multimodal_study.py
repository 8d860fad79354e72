"""One model over images and text, its controls and its parts: `python -m benchmarks.multimodal_study run`, then others.

run        train what is missing with the recipe multimodal-digits; a stopped run goes on from its checkpoint
table      held-out accuracy of every run, by kind of question, with 95% intervals
scales     of a run, layer by layer: how large the statistics of image tokens are beside those of text
state      of a run: the size of an image's state, and what ten questions cost with it and without
"""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from tqdm import tqdm

from tost.data.image_text import Batches, load_image_text
from tost.evaluation import evaluate
from tost.models.language import select_state, state_nbytes
from tost.models.multimodal import ToSTProcessor
from tost.nn.causal_mixture import CausalMixture
from tost.training import load_recipe, load_run, train
from tost.training.multimodal import MultimodalTask

FOLDER = Path("runs/multimodal-study")
PLAIN = {"separate_values": False, "group_means": False, "output_gate": False, "head_norm": False}

# name: what it is, settings that differ from the recipe's
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tost": ("the recipe", {}),
    "text-only": ("images blank", {"data.hide": "image"}),
    "image-only": ("questions left out", {"data.hide": "question"}),
    "published": ("the paper's operator in every layer", {f"model.options.{k}": v for k, v in PLAIN.items()}),
    "softmax": ("softmax attention in every layer", {"model.options.mixer": "softmax"}),
    "hybrid": ("softmax attention in every second layer", {"model.options.mixer": ["tssa", "softmax"]}),
    "no-norm": ("patches without their norm", {"model.options.image_norm": False}),
    "no-modality": ("no modality embeddings", {"model.options.modality_embedding": False}),
    "temperatures": ("a temperature of their own for patches", {}),
    "heads": ("patches write to half of the heads, text to the others", {}),
}


def run(
    variants: Sequence[str] = tuple(VARIANTS), seeds: Sequence[int] = (0,), steps: int | None = None, threads: int = 2
) -> None:
    """Train what is missing.

    Args:
        variants: which of them
        seeds: each is a run
        steps: another length than the recipe's, which makes the study a quick one
        threads: of torch
    """
    torch.set_num_threads(threads)
    for name in variants:
        for seed in seeds:
            changes = {**VARIANTS[name][1], "run.seed": seed, "run.name": f"{name}-{seed}", "run.folder": str(FOLDER)}
            if steps is not None:
                changes["run.steps"] = steps
            print(f"{name}-{seed}: {VARIANTS[name][0]}", flush=True)
            with by_modality(name):
                train(load_recipe("multimodal-digits", changes))


def table(folder: Path = FOLDER) -> None:
    """Held-out accuracy by kind, with 95% intervals, as a table in Markdown.

    Args:
        folder: of the runs
    """
    runs = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not runs:
        raise ValueError(f"{folder}: no finished run; `python -m benchmarks.multimodal_study run` makes them")
    rows = []
    for path in tqdm(runs, leave=False):
        with by_modality(path.name.rpartition("-")[0]):
            rows.append((path.name, json.loads((path / "summary.json").read_text("utf-8")), evaluate(path)))
    kinds = list(rows[0][2]["kinds"])
    print(f"| run | steps | seconds | all | {' | '.join(kinds)} |\n|---|---|---|---|{'---|' * len(kinds)}")
    for name, summary, found in rows:
        cells = [interval(part) for part in (found, *found["kinds"].values())]
        print(f"| {name} | {summary['steps']} | {summary['seconds']:.0f} | {' | '.join(cells)} |")
    always = [f"{100 * part['majority']:.1f}" for part in rows[0][2]["kinds"].values()]
    print(f"| always the most frequent answer | | | | {' | '.join(always)} |")


def interval(part: dict[str, Any]) -> str:
    low, high = part["interval"]
    return f"{100 * part['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


@torch.inference_mode()
def scales(run: Path | None = None, rows: int = 200) -> None:
    """Layer by layer, means over held-out image tokens | over tokens of text.

    |x| is the residual stream's root mean square at the block's input, |w| the projected tokens', energy share the mean
    of w_t^2 / a_t over the features (1 / t for tokens like those before), pi_max the largest membership.

    Args:
        run: folder of a finished run (default: a model at its start)
        rows: held-out questions
    """
    if run is None:
        task = MultimodalTask(load_recipe("multimodal-digits", {"data.samples": 4000}), Path("none"))
        model, sets, batches = task.model.eval(), task.sets, task.collate
    else:
        model, recipe = load_run(run)
        sets = load_image_text(recipe.data)
        batches = Batches(ToSTProcessor.from_pretrained(run), recipe.data.hide)
    batch = batches([sets.test[i] for i in range(rows)])
    here = batch["input_ids"] == model.config.image_token_id
    text = ~here & (batch["labels"] != -100).flip(1).cumsum(1).flip(1).bool()  # up to the end of the answer
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [
        block.mixer.register_forward_pre_hook(lambda mixer, given: seen.append((given[0], mixer.membership(given[0]))))
        for block in model.model.blocks
    ]
    inputs: list[Tensor] = []
    hooks += [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in model.model.blocks]
    model(batch["input_ids"], batch["pixel_values"], use_cache=False)
    for hook in hooks:
        hook.remove()
    print("| layer | \\|x\\| image | text | \\|w\\| image | text | energy share image | text | pi_max image | text |")
    print("|---|---|---|---|---|---|---|---|---|")
    for layer, (block, x, (h, pi)) in enumerate(zip(model.model.blocks, inputs, seen)):
        w = block.mixer._scored(h).double()
        share = (w.square() / running(w.square(), block.mixer.survival()).clamp_min(1e-12)).mean((2, 3))
        figures = (x.double().square().mean(-1).sqrt(), w.square().mean((2, 3)).sqrt(), share, pi.amax(-1))
        cells = [f"{float(figure[among].mean()):.3f}" for figure in figures for among in (here, text)]
        print(f"| {layer} | {' | '.join(cells)} |")


def running(p: Tensor, decay: Tensor | None) -> Tensor:
    """a_t = l a_{t-1} + p_t of p [B, N, H, D]."""
    a, keep = torch.zeros_like(p[:, 0]), 1.0 if decay is None else decay.double()[:, None]
    sums = []
    for n in range(p.shape[1]):
        a = keep * a + p[:, n]
        sums.append(a)
    return torch.stack(sums, 1)


@torch.inference_mode()
def state(run: Path, questions: int = 10, repeats: int = 20) -> None:
    """Bytes of an image's state; tokens and seconds of `questions` asked from it, and with the image each time.

    Args:
        run: folder of a finished run
        questions: about the image
        repeats: medians over so many
    """
    model, recipe = load_run(run)
    sets = load_image_text(recipe.data)
    batches = Batches(ToSTProcessor.from_pretrained(run), recipe.data.hide)
    rows = [batches([sets.test[i]]) for i in range(questions)]
    places = int((rows[0]["input_ids"] == model.config.image_token_id).sum())
    pixels = rows[0]["pixel_values"]
    asked = [row["input_ids"][:, places:] for row in rows]

    def once() -> None:
        cache = model(rows[0]["input_ids"][:, :places], pixels, use_cache=True).past_key_values
        for ids in asked:
            model(ids, past_key_values=select_state(cache, [0]))

    def again() -> None:
        for ids in asked:
            model(torch.cat([rows[0]["input_ids"][:, :places], ids], 1), pixels, use_cache=False)

    size = state_nbytes(model(rows[0]["input_ids"][:, :places], pixels, use_cache=True).past_key_values)
    text = sum(ids.shape[1] for ids in asked)
    print(f"state of an image: {size:,} bytes; tokens {places} + {text} against {questions * places + text}")
    first, second = (1e3 * median(call, repeats) for call in (once, again))
    print(f"{first:.1f} ms from the state, {second:.1f} ms with the image anew")


def median(call: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@contextmanager
def by_modality(name: str) -> Iterator[None]:
    """Within it, models are built with mixers that treat patches apart, if the variant says so."""
    kinds = {"temperatures": SeparateTemperature, "heads": SeparateHeads}
    if name not in kinds:
        yield
        return
    from tost.models.language import block
    from tost.models.multimodal import ToSTMultimodalModel

    before, embed = block.CausalMixture, ToSTMultimodalModel.embed

    def marking(self: Any, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        for layer in self.blocks:
            layer.mixer.here = input_ids == self.config.image_token_id
        return embed(self, input_ids, pixel_values)

    block.CausalMixture = kinds[name]  # type: ignore[misc]
    ToSTMultimodalModel.embed = marking  # type: ignore[method-assign]
    try:
        yield
    finally:
        block.CausalMixture, ToSTMultimodalModel.embed = before, embed  # type: ignore[misc, method-assign]


class SeparateTemperature(CausalMixture):
    """Patches have temperatures [H] of their own."""

    undecayed = (*CausalMixture.undecayed, "image_temperature")
    here: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.image_temperature = nn.Parameter(torch.ones(self.num_heads))

    def _temperature(self, x: Tensor, mask: Any, cu_seqlens: Any, state: Any) -> Tensor:
        return torch.where(self.here[..., None], self.image_temperature, self.temperature)


class SeparateHeads(CausalMixture):
    """Patches write to the first half of the heads, text to the second; all are read by all."""

    here: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_proj.register_forward_hook(self._separate)

    def _separate(self, _: nn.Module, given: Any, out: Tensor) -> Tensor:
        parts = out.unflatten(-1, (-1, self.num_heads, self.head_dim))  # w, values, gate
        first = torch.arange(self.num_heads, device=out.device) < self.num_heads // 2
        own = (self.here[..., None] == first)[:, :, None, :, None]
        gate = torch.arange(parts.shape[2], device=out.device)[:, None, None] >= 1 + self.options.separate_values
        return torch.where(own | gate, parts, 0).flatten(2)


if __name__ == "__main__":
    auto_cli([run, table, scales, state], as_positional=False)
