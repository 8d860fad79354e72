"""Swap one attention layer: linear time in the number of tokens, same input, same output.

python examples/drop_in.py
"""

import torch
from torch import nn

import tost


class YourBlock(nn.Module):
    """A transformer block as found everywhere; only the attention layer differs."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = tost.TSSA(dim, num_heads)  # was: nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 1000, 96)
    mask = torch.arange(1000) < torch.tensor([[1000], [700]])  # the second sequence has 700 tokens
    block = YourBlock(96, num_heads=4)
    out = block(tokens, mask)
    alone = block(tokens[1:, :700])
    print(
        f"tokens {tuple(tokens.shape)} -> {tuple(out.shape)}; padding changes the real tokens by "
        f"{(out[1:, :700] - alone).abs().max():.1e}"
    )

    # feature maps: in a detector or a U-Net, global context at any resolution
    stage = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.GELU(), tost.TSSA2d(32, num_heads=4))
    print(f"image (1, 3, 256, 320) -> {tuple(stage(torch.randn(1, 3, 256, 320)).shape)}")


if __name__ == "__main__":
    main()
