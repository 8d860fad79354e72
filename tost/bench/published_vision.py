"""The published vision model in plain torch, with the released code's parameter names: the rival of every comparison.

Written from the paper and the public description of XCiT; layout [B, H, N, D], nothing rearranged for speed.
"""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedAttention(nn.Module):
    """The released TSSA layer: w is normalised over tokens for Pi alone, and all products are spelled out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim)
        self.temp = nn.Parameter(torch.ones(heads, 1))
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        w = self.qkv(x).view(B, N, self.heads, C // self.heads).transpose(1, 2)  # [B, H, N, D]
        unit = F.normalize(w, dim=-2)
        pi = torch.softmax((unit**2).sum(dim=-1) * self.temp, dim=1)  # [B, H, N], over heads
        share = pi / (pi.sum(dim=-1, keepdim=True) + 1e-8)
        moment = torch.matmul(share.unsqueeze(-2), w**2)  # [B, H, 1, D]
        out = -(w * pi.unsqueeze(-1)) * (1.0 / (1 + moment))
        return self.to_out(out.transpose(1, 2).reshape(B, N, C))


class PublishedMlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PublishedBlock(nn.Module):
    """Pre-norm residual block with LayerScale."""

    def __init__(self, dim: int, heads: int, scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PublishedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PublishedMlp(dim, 4 * dim)
        self.gamma1 = nn.Parameter(scale * torch.ones(dim))
        self.gamma2 = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x))
        return x + self.gamma2 * self.mlp(self.norm2(x))


class PublishedClassAttention(nn.Module):
    """XCiT's class attention: queries, keys and values for all tokens, of which only the first query is used."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q[:, :, :1] * k).sum(dim=-1) * (C // self.heads) ** -0.5  # [B, H, N]
        pooled = scores.softmax(dim=-1).unsqueeze(2) @ v  # [B, H, 1, D]
        cls = self.proj(pooled.transpose(1, 2).reshape(B, 1, C))
        return torch.cat([cls, x[:, 1:]], dim=1)


class PublishedClassBlock(nn.Module):
    """XCiT's class-attention block, LayerNorm 2 on all tokens."""

    def __init__(self, dim: int, heads: int, scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PublishedClassAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PublishedMlp(dim, 4 * dim)
        self.gamma1 = nn.Parameter(scale * torch.ones(dim))
        self.gamma2 = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attn(self.norm1(x))
        x = self.norm2(x)
        cls = self.gamma2 * self.mlp(x[:, :1])
        return x + torch.cat([cls, x[:, 1:]], dim=1)


class PublishedPositions(nn.Module):
    """Fourier features of the grid, projected by a 1x1 convolution."""

    def __init__(self, dim: int, frequencies: int = 32) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.token_projection = nn.Conv2d(2 * frequencies, dim, kernel_size=1)

    def forward(self, B: int, H: int, W: int) -> Tensor:
        y = torch.arange(1, H + 1, dtype=torch.float32)[None, :, None].expand(1, H, W)
        x = torch.arange(1, W + 1, dtype=torch.float32)[None, None, :].expand(1, H, W)
        y = y / (y[:, -1:, :] + 1e-6) * 2 * math.pi
        x = x / (x[:, :, -1:] + 1e-6) * 2 * math.pi
        k = torch.arange(self.frequencies, dtype=torch.float32)
        period = 10000 ** (2 * torch.div(k, 2, rounding_mode="floor") / self.frequencies)
        parts = []
        for axis in (y, x):
            angle = axis[..., None] / period
            parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
        grid = torch.cat(parts, dim=3).permute(0, 3, 1, 2)
        return self.token_projection(grid.to(self.token_projection.weight)).repeat(B, 1, 1, 1)


class PublishedPatchEmbed(nn.Module):
    """Stride-2 convolutions with BatchNorm, GELU between."""

    def __init__(self, patch: int, in_chans: int, dim: int) -> None:
        super().__init__()
        depth = {16: 4, 8: 3}[patch]
        widths = [in_chans, *(dim >> k for k in reversed(range(depth)))]
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:]):
            conv = nn.Conv2d(a, b, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(b)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return x.flatten(2).transpose(1, 2), x.shape[2], x.shape[3]


class PublishedVision(nn.Module):
    """The released vision model in evaluation mode: images [B, in_chans, H, W] -> logits [B, num_classes]."""

    def __init__(
        self,
        patch: int = 16,
        dim: int = 384,
        depth: int = 12,
        heads: int = 8,
        scale: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.patch_embed = PublishedPatchEmbed(patch, in_chans, dim)
        self.pos_embeder = PublishedPositions(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(PublishedBlock(dim, heads, scale) for _ in range(depth))
        self.cls_attn_blocks = nn.ModuleList(PublishedClassBlock(dim, heads, scale) for _ in range(2))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        B = len(x)
        x, H, W = self.patch_embed(x)
        x = x + self.pos_embeder(B, H, W).reshape(B, -1, H * W).permute(0, 2, 1)
        for block in self.blocks:
            x = block(x)
        x = torch.cat((self.cls_token.expand(B, -1, -1), x), dim=1)
        for block in self.cls_attn_blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
