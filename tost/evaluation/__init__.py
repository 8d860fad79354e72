"""How good a run is on images, sequences or text that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tost.evaluation.intervals import ratio_interval, wilson_interval

if TYPE_CHECKING:
    from tost.evaluation.runs import evaluate

__all__ = ["evaluate", "ratio_interval", "wilson_interval"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from tost.evaluation.runs import evaluate

        return evaluate
    raise AttributeError(f"module 'tost.evaluation' has no attribute {name!r}")
