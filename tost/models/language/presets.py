"""Sizes by name: each differs from the published Base, the defaults of ToSTConfig, in what its row says."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

from tost.models.language.config import ToSTConfig

NANO = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256}
# Not in the paper. The widths that GPT-3 and Llama have at these sizes, heads of 64 features as published, and
# as many layers as fill the count: a block holds 10 C^2 weights, one of attention 12 C^2. Tables for 32k tokens.
LONG = {"max_position_embeddings": 32768}
BILLIONS: dict[str, dict[str, Any]] = {
    "1b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, **LONG},  # 1.2B
    "3b": {"hidden_size": 3072, "num_hidden_layers": 30, "num_attention_heads": 48, **LONG},  # 3.1B
    "7b": {"hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 64, **LONG},  # 7.1B
}
# of the sets tried in benchmarks/language_study the best whose state does not grow; not taken apart option by option
MODERN = {
    "position_mode": "none",
    "layer_scale_init": None,
    "conv_width": 4,
    "half_lives": [4, 16, 64, 0],
    "separate_values": True,
    "group_means": True,
    "output_gate": True,
    "head_norm": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    "nano": NANO,
    "tiny": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "max_position_embeddings": 512},
    "base": {},  # 110M, arXiv 2412.17810
    "medium": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},  # 304M
    "large": {"hidden_size": 1280, "num_hidden_layers": 36, "num_attention_heads": 20},  # 655M
    **BILLIONS,
    "modern": MODERN,
    "modern-nano": {**NANO, **MODERN},
    "modern-7b": {**BILLIONS["7b"], **MODERN, "num_hidden_layers": 32},  # values and gate: 12 C^2 a block
}


def preset(name: str, **changes: Any) -> ToSTConfig:
    """The configuration called `name` in PRESETS, with some options changed: preset("tiny", vocab_size=4096).

    Raises ValueError for an unknown name, or an unknown option (with the nearest one).
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    known = [*(field.name for field in fields(ToSTConfig)), "num_labels"]
    for option in changes:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            raise ValueError(f"ToSTConfig has no option {option!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return ToSTConfig(**{**PRESETS[name], **changes})
