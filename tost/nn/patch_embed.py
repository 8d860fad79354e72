"""From an image to tokens: a short stack of convolutions."""

# B batch, N = Hp*Wp tokens, C features

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.linear import convolution_gelu, takes_onednn


class ConvNorm(nn.Module):
    """3x3 convolution without bias, then BatchNorm, then GELU if asked for.

    In eval mode the norm is folded into the convolution's weights.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, gelu: bool = False) -> None:
        super().__init__()
        self.gelu = gelu
        self.conv = nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y = self.norm(self.conv(x))
            return F.gelu(y) if self.gelu else y
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.conv.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        if self.gelu and takes_onednn(x) and not torch.is_grad_enabled() and weight.dtype == torch.float32:
            return convolution_gelu(x, weight, bias, self.conv.padding, self.conv.stride)
        y = F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding)
        return F.gelu(y) if self.gelu else y


class ConvPatchEmbed(nn.Module):
    """XCiT's convolutional patch embedding: one stride-2 convolution for every factor 2 of the patch, GELU between.

    images [B, in_chans, H, W] -> (tokens [B, Hp*Wp, dim], (Hp, Wp)); widths double up to dim. patch_size is a power of
    two up to 16; at 1 there is one convolution of stride 1.
    Raises ValueError for another patch_size, a dim that the widths don't divide, or H, W not divisible by the patch.
    """

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        if patch_size not in (1, 2, 4, 8, 16):
            raise ValueError(f"ConvPatchEmbed expects a patch_size of 1, 2, 4, 8 or 16, got {patch_size}")
        depth = max(1, patch_size.bit_length() - 1)
        if dim % 2 ** (depth - 1):
            raise ValueError(f"ConvPatchEmbed halves dim {depth - 1} times for patch_size={patch_size}, got dim={dim}")
        self.patch_size, self.in_chans = patch_size, in_chans
        widths = [in_chans] + [dim >> k for k in reversed(range(depth))]
        stride = 1 if patch_size == 1 else 2
        self.layers = nn.ModuleList(ConvNorm(a, b, stride, gelu=b < dim) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        p = self.patch_size
        if x.ndim != 4 or x.shape[1] != self.in_chans or x.shape[2] % p or x.shape[3] % p:
            raise ValueError(
                f"ConvPatchEmbed expects images [B, {self.in_chans}, H, W] with H and W divisible by the "
                f"patch {p}, got {list(x.shape)}; resize or pad the images"
            )
        if not torch.compiler.is_exporting():  # a layout is no part of a graph; ExecuTorch computes nonsense from it
            x = x.contiguous(memory_format=torch.channels_last)  # so that the tokens below are a view
        for layer in self.layers:
            x = layer(x)
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])
