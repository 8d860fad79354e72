"""Models by name."""

from __future__ import annotations

import difflib
from fnmatch import fnmatch
from typing import Any

from tost.models.vision import ToSTVision
from tost.models.vision_config import ALIASES, VARIANTS, VisionConfig


def create_model(
    name: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | tuple[int, int] | None = None,
    mixer: str = "tssa",
    drop_path_rate: float = 0.0,
    **overrides: Any,
) -> ToSTVision:
    """The vision model called `name`, with fresh weights: create_model("tost_small_12_p16", num_classes=10).

    Names are those of list_models(); the released code's (tost_cab_*) work too. `overrides` are fields of VisionConfig.
    img_size is the size the model describes itself with (None: 224, and 8 patches for nano); others work as well.
    Raises ValueError for an unknown name (with the nearest ones), an unknown option, or sizes that don't fit.
    """
    config = model_config(name)
    config = config.with_fields(
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=config.img_size if img_size is None else img_size,
        mixer=mixer,
        drop_path_rate=drop_path_rate,
        **overrides,
    )
    return ToSTVision(config)


def model_config(name: str) -> VisionConfig:
    """The configuration registered under `name` (or a published alias). Raises ValueError for an unknown name."""
    known = VARIANTS.get(ALIASES.get(name, name))
    if known is None:
        near = difflib.get_close_matches(name, [*VARIANTS, *ALIASES], n=3) or ["tost_small_12_p16"]
        raise ValueError(f"unknown model {name!r}; did you mean {' or '.join(near)}? (tost.list_models() has all)")
    return known


def list_models(filter: str = "*", *, aliases: bool = False) -> list[str]:
    """Names of the models that match a shell pattern ("tost_*_p16"), sorted; `aliases` adds the published names."""
    names = [*VARIANTS, *ALIASES] if aliases else list(VARIANTS)
    return sorted(name for name in names if fnmatch(name, filter))
