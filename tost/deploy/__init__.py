"""Trained models made ready for use elsewhere: quantised, exported, planned for a machine's memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tost.deploy.export import Exported, export_model
    from tost.deploy.export_graphs import Limits
    from tost.deploy.export_run import export_run
    from tost.deploy.large import load_large, write_random
    from tost.deploy.plan import Case, Plan, Planner, plan_memory
    from tost.deploy.quantize import quantize_run
    from tost.models.quantized import load_quantized

# Imported at first use: each part needs packages of its own.
_HOME = {
    "Case": "tost.deploy.plan",
    "Exported": "tost.deploy.export",
    "Limits": "tost.deploy.export_graphs",
    "Plan": "tost.deploy.plan",
    "Planner": "tost.deploy.plan",
    "export_model": "tost.deploy.export",
    "export_run": "tost.deploy.export_run",
    "load_large": "tost.deploy.large",
    "load_quantized": "tost.models.quantized",
    "plan_memory": "tost.deploy.plan",
    "quantize_run": "tost.deploy.quantize",
    "write_random": "tost.deploy.large",
}

__all__ = [
    "Case",
    "Exported",
    "Limits",
    "Plan",
    "Planner",
    "export_model",
    "export_run",
    "load_large",
    "load_quantized",
    "plan_memory",
    "quantize_run",
    "write_random",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tost.deploy' has no attribute {name!r}")
