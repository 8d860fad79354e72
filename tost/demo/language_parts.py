"""What the demo's language half measures: each part is a function of the two finished runs."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tost.analysis.growth_figure import growth_figure
from tost.analysis.style import Drawing
from tost.bench.files import write_json
from tost.bench.machine import machine

RECIPE = "lm-stdlib"
SETTINGS: dict[str, Any] = {"run.tokens": 1_200_000, "run.checkpoint_steps": 100}  # a minute a model, on two cores
LABELS = {"tost": "ToST", "softmax": "GPT-2"}
GPT2 = {"mixer": "softmax", "layer_scale_init": None, "position_mode": "clamped"}
CONTEXTS = (256, 1024, 4096, 16384)
PROMPT = "def "
NEW_TOKENS = 160


def train_language(folder: Path, mixer: str, changes: Mapping[str, Any]) -> Path:
    """A finished run of the lm-stdlib recipe at `folder`: trained now, gone on with, or found finished."""
    from tost.training import train

    settings = {**SETTINGS, **changes, "run.folder": str(folder.parent), "run.name": folder.name}
    if mixer == "softmax":
        settings["model.preset"] = "nano"
        settings["model.options"] = {**settings.get("model.options", {}), **GPT2}
    return train(RECIPE, **settings)


def bits_per_byte(runs: Mapping[str, Path], kept: Path) -> dict[str, Any]:
    """How many bits a byte of held-out source takes each model and gzip and xz, or what was found before of the same
    runs: {"models": {name: ...}, "compressors": [...], "bytes"}."""
    from tost.training.runs import read_summary

    return reuse(
        kept, {name: read_summary(run) for name, run in runs.items()}, lambda: {
            "models": {name: _model_bits(run) for name, run in runs.items()},
            **_compressor_bits(next(iter(runs.values()))),
        }
    )  # fmt: skip


def _model_bits(run: Path) -> dict[str, Any]:
    from tost.evaluation.text import evaluate_text
    from tost.training import load_run
    from tost.training.runs import read_summary

    model, _ = load_run(run)
    found, summary = evaluate_text(run), read_summary(run) or {}
    return {
        "bits": found["bits_per_byte"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": summary.get("seconds"),
        "steps": summary.get("steps"),
    }


def _compressor_bits(run: Path) -> dict[str, Any]:
    """gzip and xz on the text that the run holds out, alone, and xz after its training text."""
    from tost.data.text import held_out_text
    from tost.training.language import text_options
    from tost.training.runs import read_config

    train, test = (text.encode() for text in held_out_text(text_options(read_config(run))))
    sizes = {
        "gzip -9": len(gzip.compress(test, 9, mtime=0)),
        "xz -9": len(lzma.compress(test, preset=9)),
        "xz -9 that has seen the training text": len(lzma.compress(train + test, preset=9))
        - len(lzma.compress(train, preset=9)),
    }
    found = [{"name": name, "bits": 8 * size / len(test)} for name, size in sizes.items()]
    return {"compressors": found, "bytes": len(test), "training_bytes": len(train)}


def sample(run: Path, prompt: str = PROMPT) -> str:
    """What the model writes after the prompt, the prompt included."""
    from tost.generation import Sampling, generate_text, load_language

    model, tokenizer = load_language(run, device="cpu")
    room = min(NEW_TOKENS, model.config.max_position_embeddings // 2)
    return prompt + generate_text(model, tokenizer, prompt, Sampling(max_new_tokens=room, seed=0)).text


def growth(runs: Mapping[str, Path], kept: Path) -> list[dict[str, Any]]:
    """Time of one more token and bytes of the state over the context, beyond the positions that were learned (which
    changes neither)."""
    from tost.bench.growth import growth_records

    def measure() -> list[dict[str, Any]]:
        return growth_records({name: _endless(run) for name, run in runs.items()}, CONTEXTS)

    here = {key: machine()[key] for key in ("processor", "versions", "threads")}
    return reuse(kept, {**here, "contexts": list(CONTEXTS)}, measure)


def _endless(run: Path) -> Any:
    """The run's model, its last position used for all beyond."""
    from tost.generation import load_language

    model, _ = load_language(run, device="cpu")
    if model.config.position_mode == "learned":
        model, _ = load_language(run, device="cpu", position_mode="clamped")
    return model


def growth_drawing(records: list[dict[str, Any]]) -> Drawing:
    """The figure of `growth`."""
    return growth_figure(records, {"tost": LABELS["tost"], "softmax": "softmax"})


def reuse(path: Path, key: Any, measure: Callable[[], Any]) -> Any:
    """What `measure` gives, kept at `path`; taken from there as long as it was found with the same `key`."""
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["key"] == json.loads(json.dumps(key)):
            return before["found"]
    found = measure()
    write_json({"key": key, "found": found}, path)
    return found
