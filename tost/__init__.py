"""Token Statistics Transformer: linear-time, interpretable attention (arXiv 2412.17810).

y = tost.tssa(w, temperature)                    # the operator, w [B, N, H, D]
layer = tost.TSSA(dim=384, num_heads=8)          # the drop-in attention layer, x [B, N, C]
model = tost.create_model("tost_small_12_p16")   # a vision backbone
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tost import models, nn, ops, rates
    from tost.models import Streaming, ToST, ToSTSequence, create_model, list_models
    from tost.nn import TSSA, Block, CausalTSSA, ClassAttention, TSSA2d
    from tost.ops import TSSAState, TSSAStats, causal_tssa, tssa

__version__ = "0.1.0"

# Imported at first use: the command line answers --help without waiting for torch.
_HOME = {
    "tssa": "tost.ops",
    "causal_tssa": "tost.ops",
    "TSSAState": "tost.ops",
    "TSSAStats": "tost.ops",
    "TSSA": "tost.nn",
    "CausalTSSA": "tost.nn",
    "TSSA2d": "tost.nn",
    "Block": "tost.nn",
    "ClassAttention": "tost.nn",
    "ToST": "tost.models",
    "ToSTSequence": "tost.models",
    "Streaming": "tost.models",
    "create_model": "tost.models",
    "list_models": "tost.models",
}
_ROOMS = ("models", "nn", "ops", "rates")

__all__ = [
    "TSSA",
    "Block",
    "CausalTSSA",
    "ClassAttention",
    "Streaming",
    "TSSA2d",
    "TSSAState",
    "TSSAStats",
    "ToST",
    "ToSTSequence",
    "causal_tssa",
    "create_model",
    "list_models",
    "models",
    "nn",
    "ops",
    "rates",
    "tssa",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"tost.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
