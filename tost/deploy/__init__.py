"""Trained models made ready for use elsewhere: quantised, exported, planned for a machine's memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tost.deploy.export import Exported, export_model
    from tost.deploy.export_graphs import Limits
    from tost.deploy.export_run import export_run
    from tost.deploy.quantize import quantize_run
    from tost.models.quantized import load_quantized

# Imported at first use: each part needs packages of its own.
_HOME = {
    "Exported": "tost.deploy.export",
    "Limits": "tost.deploy.export_graphs",
    "export_model": "tost.deploy.export",
    "export_run": "tost.deploy.export_run",
    "load_quantized": "tost.models.quantized",
    "quantize_run": "tost.deploy.quantize",
}

__all__ = ["Exported", "Limits", "export_model", "export_run", "load_quantized", "quantize_run"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tost.deploy' has no attribute {name!r}")
