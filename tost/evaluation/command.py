"""`tost evaluate`."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict, dataclass


@dataclass
class Images:
    """Where the images are, if not where the run's recipe says.

    Args:
        path: folder of the images
        workers: processes that decode image files
    """

    path: str | None = None
    workers: int | None = None


def evaluate(
    run: str,
    data: Images = Images(),  # noqa: B008
    batch_size: int = 256,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Accuracy of a run's saved weights on held-out images, with its 95% interval.

    Args:
        run: folder of a finished run, such as runs/vision-digits
        data: where the images are
        batch_size: images per forward pass
        device: cpu, cuda, ... (default: cuda where there is one)
        json: print one JSON object instead of a sentence
    """
    from tost.evaluation.runs import evaluate as recompute

    changes = {key: value for key, value in asdict(data).items() if value is not None}
    result = recompute(run, data=changes, batch_size=batch_size, device=device)
    if json:
        print(json_module.dumps(result))
        return
    low, high = result["interval"]
    print(
        f"accuracy {result['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}), {result['right']} of "
        f"{result['images']} held-out images right (split {result['split']!r}, {result['classes']} classes)"
    )
