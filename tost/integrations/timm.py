"""Importing this module registers every vision model with timm, so that timm.create_model and its scripts find them.

import timm, tost.integrations.timm
model = timm.create_model("tost_small_12_p16", num_classes=10, drop_path_rate=0.05)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tost.extras import require
from tost.models.registry import create_model, list_models, model_config
from tost.models.vision import default_cfg

require("timm", extra="timm")

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model  # noqa: E402

default_cfgs = generate_default_cfgs({name: default_cfg(model_config(name)) for name in list_models(aliases=True)})


def _entry_point(name: str) -> Callable[..., nn.Module]:
    """The function that timm.create_model(name, ...) calls."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise ValueError(
                f"timm.create_model: {name} has no released weights; pass pretrained=False, and load your own with "
                "checkpoint_path=... or tost.models.ToSTVision.from_pretrained"
            )
        features = {"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"}
        return build_model_with_cfg(partial(create_model, name), name, False, feature_cfg=features, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} as a timm model; options are fields of tost.models.VisionConfig."
    return build


for _name in list_models(aliases=True):
    _build = _entry_point(_name)
    setattr(sys.modules[__name__], _name, _build)
    register_model(_build)
