"""The layer for feature maps: what people paste into detectors, U-Nets and convolutional backbones."""

# B batch, C channels, H x W feature map

from __future__ import annotations

from torch import Tensor

from tost.nn.tssa import TSSA


class TSSA2d(TSSA):
    """TSSA over the H*W positions of a feature map; its weights are those of TSSA(dim=channels, ...).

    x: [B, C, H, W] -> [B, C, H, W].  mask: [B, H, W] bool, True = a real position.
    A channels_last map is used and returned without a copy; any other comes back contiguous.
    Raises ValueError if num_heads doesn't divide channels, or x is not [B, channels, H, W].
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        backend: str | None = None,
    ) -> None:
        super().__init__(channels, num_heads, bias, attn_drop, proj_drop, backend)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.ndim != 4 or x.shape[1] != self.dim:
            raise ValueError(f"TSSA2d expects a feature map [B, {self.dim}, H, W], got {list(x.shape)}")
        tokens = x.flatten(2).transpose(1, 2)
        y = super().forward(tokens, None if mask is None else mask.flatten(1))
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        return y.contiguous() if x.is_contiguous() else y
