"""The contestants of the study: options of ToSTConfig by name, with as many parameters each."""

# C features

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LADDER = [4, 16, 64, 0]  # half-lives in tokens over the four heads; 0 never forgets
CONV = {"conv_width": 4}
FORGET = {"half_lives": LADDER}
MEANS = {"separate_values": True, "group_means": True}
GATED = {"output_gate": True, "head_norm": True}


@dataclass(frozen=True)
class Variant:
    """A row of the table: what it is, its options, and the layers' mixers, repeated over the depth."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)
    mixers: tuple[str, ...] = ("tssa",)


VARIANTS = {
    # without convolution: the published operator and GPT-2
    "paper": Variant("the paper's TSSA", {"position_mode": "learned"}),
    "paper-orderless": Variant("the paper's TSSA without positions", {"position_mode": "none"}),
    "gpt2": Variant("softmax, learned positions (GPT-2)", {"position_mode": "learned"}, ("softmax",)),
    # every other has a convolution of four tokens, and rotary positions in its softmax layers
    "softmax": Variant("softmax", CONV, ("softmax",)),
    "none": Variant("control: nothing between tokens", CONV, ("none",)),
    "token": Variant("control: statistics of the token alone", CONV, ("token",)),
    "tssa": Variant("TSSA", CONV),
    "forget": Variant("TSSA, forgetting", {**CONV, **FORGET}),
    "means": Variant("TSSA, forgetting, values, means", {**CONV, **FORGET, **MEANS}),
    "linear": Variant("TSSA, forgetting, values, means, gate, norm", {**CONV, **FORGET, **MEANS, **GATED}),
    "softmax-gated": Variant("softmax, gate, norm", {**CONV, **GATED}, ("softmax",)),
    "none-gated": Variant("control: nothing between tokens, gate, norm", {**CONV, **GATED}, ("none",)),
    "token-gated": Variant("control: statistics of the token alone, gate, norm", {**CONV, **GATED}, ("token",)),
    # one softmax layer in four
    "hybrid": Variant(
        "forgetting TSSA, one layer in four softmax", {**CONV, **FORGET}, ("tssa", "softmax", "tssa", "tssa")
    ),
    "hybrid-none": Variant("its control: nothing for TSSA", CONV, ("none", "softmax", "none", "none")),
    "hybrid-linear": Variant(
        "'linear', one layer in four softmax", {**CONV, **FORGET, **MEANS, **GATED}, ("tssa", "softmax", "tssa", "tssa")
    ),
    "hybrid-linear-none": Variant(
        "its control: nothing for TSSA", {**CONV, **GATED}, ("none", "softmax", "none", "none")
    ),
    # one thing more, or less, than 'linear'
    "linear-learned": Variant(
        "'linear', half-lives learned",
        {**CONV, **MEANS, **GATED, "half_lives": [4, 16, 64, 256], "learn_decay": True},
    ),
    "linear-remember": Variant("'linear' that never forgets", {**CONV, **MEANS, **GATED}),
    "linear-length": Variant(
        "'linear' that never forgets, length-aware temperature", {**CONV, **MEANS, **GATED, "length_temperature": True}
    ),
    "linear-tied": Variant("'linear' without values of its own", {**CONV, **FORGET, **GATED, "group_means": True}),
    "linear-centreless": Variant("'linear' without means", {**CONV, **FORGET, **GATED, "separate_values": True}),
    "linear-gate": Variant("'linear' without the norm", {**CONV, **FORGET, **MEANS, "output_gate": True}),
    "linear-norm": Variant("'linear' without the gate", {**CONV, **FORGET, **MEANS, "head_norm": True}),
    "linear-bare": Variant("'linear' without the convolution", {**FORGET, **MEANS, **GATED}),
    "linear-llama": Variant(
        "'linear', RMSNorm and SwiGLU", {**CONV, **FORGET, **MEANS, **GATED, "norm": "rms", "mlp": "swiglu"}
    ),
}
MAIN = (
    "softmax-gated",
    "none-gated",
    "linear",
    "hybrid-linear",
    "hybrid-linear-none",
    "softmax",
    "none",
    "forget",
    "token-gated",
)
SIZES = {"small": {"hidden_size": 64}, "medium": {"hidden_size": 128}}


def options_of(name: str, size: str) -> dict[str, Any]:
    """Options of ToSTConfig of a variant: 12 C^2 weights a layer, what the mixer doesn't use the MLP has."""
    variant, C = VARIANTS[name], int(SIZES[size]["hidden_size"])
    options = {"position_mode": "rotary", "layer_scale_init": None, **SIZES[size], **variant.options}
    matrices = 3 if options.get("mlp") == "swiglu" else 2
    hidden = [round((12 - projections(mixer, options)) * C / matrices) for mixer in variant.mixers]
    return {**options, "mixer": list(variant.mixers), "intermediate_size": hidden}


def projections(mixer: str, options: dict[str, Any]) -> int:
    """Matrices C x C of a mixer."""
    own = {"softmax": 3, "none": 1, "token": 1, "tssa": 1 + options.get("separate_values", False)}[mixer]
    return own + 1 + options.get("output_gate", False)
