"""How good a run is: images or text, whichever it learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def evaluate(
    run: str | Path,
    *,
    data: str | dict[str, Any] | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    **text: Any,
) -> dict[str, Any]:
    """The figures of a finished run's weights on what they have not seen.

    Of a vision run the accuracy, see evaluate_images; data replaces settings of the recipe's, such as {"path": ...}.
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
    from tost.evaluation.images import evaluate_images

    given = [name for name, value in text.items() if value is not None]
    if isinstance(data, str):
        given.insert(0, "data")
    if given and (Path(run) / "config.yaml").is_file():
        raise ValueError(
            f"{run} is a vision run; --{given[0]} is for language models (--data.path says where images are)"
        )
    return evaluate_images(run, data=data if isinstance(data, dict) else None, batch_size=batch_size, device=device)
