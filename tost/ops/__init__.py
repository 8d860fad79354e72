"""The token-statistics operators: pure functions of tensors, one signature, several backends."""

from tost.ops.api import BACKENDS, causal_tssa, tssa, which_backend
from tost.ops.means import MeansState, causal_tssa_means
from tost.ops.state import TSSAState, TSSAStats

__all__ = [
    "BACKENDS",
    "MeansState",
    "TSSAState",
    "TSSAStats",
    "causal_tssa",
    "causal_tssa_means",
    "tssa",
    "which_backend",
]
