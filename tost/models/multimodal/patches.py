"""From images to tokens that fit into a stream of text."""

# I images, Hp x Wp patches of P x P pixels, Np = Hp*Wp, C = hidden_size

from __future__ import annotations

import torch
from torch import Tensor, nn

from tost.models.multimodal.config import ToSTMultimodalConfig
from tost.nn.patch_embed import ConvPatchEmbed
from tost.nn.positions import FourierPositions


class LinearPatchEmbed(nn.Module):
    """Every patch of P x P pixels, projected: images [I, in_chans, H, W] -> (tokens [I, Np, C], (Hp, Wp))."""

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(images)
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])


class ImageTokens(nn.Module):
    """Patches, row by row: size * (norm(embed(patch)) + position(row, column)).

    images: [I, in_chans, H, W] -> [I, Np, C]. The positions are Fourier features, so H and W may differ from call to
    call. `size` [C] starts as the standard deviation of token embeddings (config.initializer_range), the positions as
    large as the patches, so that nothing outweighs the rest in the residual stream; neither without config.image_norm.
    Raises ValueError for images of another shape, or no numbers in them.
    """

    def __init__(self, config: ToSTMultimodalConfig) -> None:
        super().__init__()
        self.patch_size, self.in_chans = config.patch_size, config.in_chans
        kind = LinearPatchEmbed if config.patch_embedding == "linear" else ConvPatchEmbed
        self.embed = kind(config.patch_size, config.in_chans, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, elementwise_affine=False)
        scale = torch.full((config.hidden_size,), config.initializer_range)
        self.size = nn.Parameter(scale) if config.image_norm else None
        self.positions = FourierPositions(config.hidden_size)

    def count(self, images: Tensor) -> int:
        """Np, the tokens of each image."""
        return (images.shape[-2] // self.patch_size) * (images.shape[-1] // self.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        P = self.patch_size
        if images.ndim != 4 or images.shape[1] != self.in_chans or images.shape[2] % P or images.shape[3] % P:
            raise ValueError(
                f"the model expects pixel_values [images, {self.in_chans}, H, W] with H and W divisible by {P}, got "
                f"{list(images.shape)}; the model's processor makes them"
            )
        if images.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(images.isfinite().all()):
            raise ValueError("pixel_values hold NaN or infinity; mend the images")
        x, (height, width) = self.embed(images)
        positions = self.positions(height, width)
        return x + positions if self.size is None else self.size * (self.norm(x) + positions)
