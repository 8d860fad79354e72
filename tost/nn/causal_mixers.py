"""The causal mixers by name, with one signature: ours, softmax, and the two controls of a study."""

from __future__ import annotations

from torch import nn

from tost.nn.causal import CausalTSSA
from tost.nn.causal_controls import CausalNone, CausalToken
from tost.nn.causal_softmax import CausalSoftmax

CAUSAL_MIXERS: dict[str, type[nn.Module]] = {
    "tssa": CausalTSSA,
    "softmax": CausalSoftmax,
    "none": CausalNone,
    "token": CausalToken,
}
