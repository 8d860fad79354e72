"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn

from tost.nn.split import Split


class DropPath(nn.Module):
    """In training, zeroes whole samples of a residual branch with probability `rate` and scales the rest by
    1 / (1 - rate) (arXiv 1603.09382). x: [B, ...]; sequences packed into one row are one sample.
    """

    split_over: Split | None = None  # other processes, while they hold other stretches of the sequence

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"DropPath expects a rate in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        draw = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)
        return x * (draw if self.split_over is None else self.split_over.shared(draw))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
