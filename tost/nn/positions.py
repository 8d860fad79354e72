"""Positions of a grid of patches, for any height and width."""

# H x W patches, F frequencies per axis, C features

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierPositions(nn.Module):
    """Fourier position encoding of XCiT (arXiv 2106.09681): sines and cosines of both coordinates, projected to `dim`.

        u = 2 pi i / (H + 1e-6) for i = 1..H, and likewise for W
        features 2k, 2k + 1 of an axis: sin, cos of u / temperature^(2k / F)

    forward(H, W) -> [H*W, dim], in the dtype of the weights; the angles are float32.
    """

    def __init__(self, dim: int, frequencies: int = 32, temperature: float = 10000.0) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.temperature = temperature
        self.proj = nn.Linear(2 * frequencies, dim)

    def forward(self, height: int, width: int) -> Tensor:
        F = self.frequencies
        rows, columns = self.angles(height), self.angles(width)
        # the projection of (row, column) features is a sum, so each axis is projected once
        by_row = nn.functional.linear(rows, self.proj.weight[:, :F], self.proj.bias)
        by_column = nn.functional.linear(columns, self.proj.weight[:, F:])
        return (by_row[:, None] + by_column).flatten(0, 1)

    def angles(self, length: int) -> Tensor:
        """[length, F]: the features of one axis."""
        weight = self.proj.weight
        steps = torch.arange(1, length + 1, device=weight.device, dtype=torch.float32)
        steps = steps / (length + 1e-6) * (2 * math.pi)
        powers = torch.arange(self.frequencies, device=weight.device).div(2, rounding_mode="floor")
        periods = self.temperature ** (2 * powers / self.frequencies)
        angles = steps[:, None] / periods
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"frequencies={self.frequencies}, temperature={self.temperature}"
