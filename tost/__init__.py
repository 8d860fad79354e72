"""Token Statistics Transformer: linear-time, interpretable attention (arXiv 2412.17810).

y = tost.tssa(w, temperature)                    # the operator, w [B, N, H, D]
layer = tost.TSSA(dim=384, num_heads=8)          # the drop-in attention layer, x [B, N, C]
model = tost.create_model("tost_small_12_p16")   # a vision backbone
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tost.ops import TSSAState, TSSAStats, causal_tssa, tssa

if TYPE_CHECKING:
    from tost.models import ToST, create_model, list_models
    from tost.nn import TSSA, Block, CausalTSSA, ClassAttention, TSSA2d

__version__ = "0.1.0"

# Loaded at first use, so that `import tost` costs no more than torch.
_LAZY = {
    "TSSA": "tost.nn",
    "CausalTSSA": "tost.nn",
    "TSSA2d": "tost.nn",
    "Block": "tost.nn",
    "ClassAttention": "tost.nn",
    "ToST": "tost.models",
    "create_model": "tost.models",
    "list_models": "tost.models",
}

__all__ = [
    "TSSA",
    "Block",
    "CausalTSSA",
    "ClassAttention",
    "TSSA2d",
    "TSSAState",
    "TSSAStats",
    "ToST",
    "causal_tssa",
    "create_model",
    "list_models",
    "tssa",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tost' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
