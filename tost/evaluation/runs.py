"""How good a run is: images, text or sequences, whichever it learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tost.training.runs import CONFIG, read_config


def evaluate(
    run: str | Path,
    *,
    data: str | dict[str, Any] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    **text: Any,
) -> dict[str, Any]:
    """The figures of a finished run's weights on what they have not seen.

    Of a run on images, sequences or images and text the accuracy, see evaluate_images, evaluate_sequences and
    evaluate_multimodal; data replaces settings of the recipe's, such as {"path": ...}.
    Of a language model the surprise at a text, see evaluate_text, which also takes a folder of save_pretrained or a
    model on the Hub; data names the text.  text: evaluate_text's other arguments.
    Raises ValueError for a folder that is neither, an unfinished run, damaged weights, data that don't fit.
    """
    from tost.generation import is_language

    if is_language(run):
        from tost.evaluation.text import evaluate_text

        if isinstance(data, dict):
            if data:
                told = f"one name or file, --data NAME and --path, not --data.{next(iter(data))}"
                raise ValueError(f"{run} is a language model: its text is {told}")
            data = None
        return evaluate_text(run, data=data or None, batch_size=batch_size, device=device, **text)
    given = [name for name, value in text.items() if value is not None]
    if isinstance(data, str):
        given.insert(0, "data")
    if given and (Path(run) / "config.yaml").is_file():
        raise ValueError(f"{run} is no language model, which --{given[0]} is for (--data.path says where its data are)")
    changes = data if isinstance(data, dict) else None
    if task_of(run) == "multimodal":
        from tost.evaluation.multimodal import evaluate_multimodal

        return evaluate_multimodal(run, data=changes, batch_size=batch_size, device=device)
    if task_of(run) == "sequence":
        from tost.evaluation.sequences import evaluate_sequences

        return evaluate_sequences(run, data=changes, batch_size=batch_size, device=device)
    from tost.evaluation.images import evaluate_images

    return evaluate_images(run, data=changes, batch_size=batch_size, device=device)


def task_of(run: str | Path) -> str | None:
    """What the run in this folder trained, None where there is no run."""
    return read_config(Path(run)).task if (Path(run) / CONFIG).is_file() else None
