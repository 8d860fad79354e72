"""The token-statistics operators: pure functions of tensors, one signature, several backends."""

from tost.ops.api import BACKENDS, causal_tssa, tssa, which_backend
from tost.ops.membership import causal_membership
from tost.ops.mixture import MixtureState, causal_mixture
from tost.ops.state import TSSAState, TSSAStats

__all__ = [
    "BACKENDS",
    "MixtureState",
    "TSSAState",
    "TSSAStats",
    "causal_membership",
    "causal_mixture",
    "causal_tssa",
    "tssa",
    "which_backend",
]
