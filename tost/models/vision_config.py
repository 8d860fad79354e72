"""What defines a vision model, and the one table of all sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tost.models.configuration import Fields


@dataclass(frozen=True)
class VisionConfig(Fields):
    """Sizes and options of a ToSTVision. The defaults are those of tost_small_12_p16."""

    SIGN: ClassVar[str] = "patch_size"

    name: str = "custom"
    patch_size: int = 16
    dim: int = 384
    num_layers: int = 12
    num_heads: int = 8
    num_classes: int = 1000
    in_chans: int = 3
    img_size: int | tuple[int, int] = 224  # the size it is meant for (default_cfg); any other divisible one works
    mixer: str = "tssa"
    mlp_ratio: float = 4.0
    feed_forward: str = "mlp"  # or "ista", of the blocks
    layer_scale_init: float = 1.0
    drop_rate: float = 0.0  # after the positions, in projections and MLPs, as published
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0  # one rate for all blocks, as published
    global_pool: str = "token"  # or "avg": the mean of the patches
    num_cls_layers: int = 2

    def __post_init__(self) -> None:
        if self.global_pool not in ("token", "avg"):
            raise ValueError(f"global_pool is 'token' or 'avg', got {self.global_pool!r}")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is at least 0 (0: no classifier), got {self.num_classes}")
        height, width = self.image_size
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"{self.name} cuts images into patches of {self.patch_size}, got img_size={self.img_size}; "
                "choose a size that the patch divides"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size


# size: (dim, heads, numbers of layers, patches): the paper, the released code, and nano, ours for small images
SIZES: dict[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "nano": (96, 4, (6,), (1, 2, 4, 8)),
    "tiny": (192, 4, (12, 24), (16, 8)),
    "small": (384, 8, (12, 24), (16, 8)),
    "medium": (512, 8, (24,), (16, 8)),
    "large": (768, 16, (24,), (16, 8)),
}


def _variants() -> dict[str, VisionConfig]:
    table = {}
    for size, (dim, heads, depths, patches) in SIZES.items():
        for depth in depths:
            for patch in patches:
                name = f"tost_{size}_{depth}_p{patch}"
                scale = 1.0 if depth <= 12 else 1e-5
                image = 224 if patch >= 8 else 8 * patch
                table[name] = VisionConfig(name, patch, dim, depth, heads, img_size=image, layer_scale_init=scale)
    return table


VARIANTS = _variants()
# the released code's names: tost_cab_small_12_p16 is tost_small_12_p16
ALIASES = {name.replace("tost_", "tost_cab_"): name for name in VARIANTS if "nano" not in name}
