"""A run for other runtimes, with what its runner must know: preprocessing and classes, or the tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tost.deploy.export import export_model
from tost.deploy.export_samples import real_images, real_text
from tost.generation.load import is_language, load_language
from tost.models.quantized import check_float
from tost.shipped import run_or_shipped


def export_run(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    format: str = "onnx",
    *,
    images: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """export_model of a finished run, a shipped one by name, or a folder of save_pretrained; options: export_model's.

    images: an image or a folder of them to check a vision model with, besides random ones.
    Raises ValueError for a folder that is no model, an unfinished run, damaged weights, and as export_model.
    """
    source = run_or_shipped(run)
    check_float(source, "export traces float weights (--int8 makes eight bits of them)")
    name = Path(source).resolve().name if Path(source).exists() else str(run)
    if is_language(source):
        model, tokenizer = load_language(source, device="cpu")
        facts = {
            "source": name,
            "vocab_size": model.config.vocab_size,
            "eos_token_id": model.config.eos_token_id,
            "max_positions": model.config.max_position_embeddings if model.config.position_mode == "learned" else None,
        }
        core = getattr(tokenizer, "backend_tokenizer", None)
        if core is None:
            raise ValueError(f"{run}: a runner reads tokenizer.json, and this tokenizer has none; save a fast one")
        files = {"tokenizer.json": core.to_str()}
        return export_model(model, folder, format, real=real_text(tokenizer), files=files, facts=facts, **options)
    model, preprocessing, classes = _load(Path(source))
    facts = {"source": name, "classes": classes}
    if preprocessing is None:
        return export_model(model, folder, format, facts=facts, **options)
    facts["preprocessing"] = preprocessing
    real = real_images(model, preprocessing, images)
    return export_model(model, folder, format, real=real, facts=facts, **options)


def _load(folder: Path) -> tuple[Any, dict[str, Any] | None, list[str]]:
    """(model, how its images are prepared or None of sequences, names of its classes)."""
    from tost.models import ToSTSequence, ToSTVision
    from tost.models.vision import IMAGENET_MEAN, IMAGENET_STD
    from tost.training import load_run
    from tost.training.runs import CONFIG, read_summary

    if (folder / CONFIG).is_file() or not (folder / "config.json").is_file():
        model, recipe = load_run(folder)
        classes = [str(name) for name in (read_summary(folder) or {}).get("classes", [])]
        if recipe.task != "vision":
            return model, None, classes
        data = recipe.data
        size, mean, std = data.image_size or max(model.config.image_size), data.mean, data.std
    else:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind: Any = ToSTVision if "patch_size" in told else ToSTSequence
        model, classes = kind.from_pretrained(folder), []
        if kind is ToSTSequence:
            return model, None, classes
        colours = model.config.in_chans == 3
        size = max(model.config.image_size)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if colours else ([0.5], [0.5])  # a guess: no recipe says
    preprocessing = {
        "image_size": size,
        "patch": model.config.patch_size,
        "channels": model.config.in_chans,
        "mean": list(mean),
        "std": list(std),
        "scale": "pixels / 255, then (x - mean) / std by channel, bicubic resizing",
    }
    return model, preprocessing, classes
