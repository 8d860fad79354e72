"""A short causal convolution: what lets a token be told by the ones just before it."""

# B batch, N tokens, C features, K width, S packed sequences

from __future__ import annotations

import torch
from torch import Tensor, nn

from tost.nn.order import token_positions


class ShortConv(nn.Module):
    """A causal convolution of every feature by itself, over the last K real tokens of its sequence.

        y_t = sum_k weight_k * x_{t-k},   k = 0 .. K-1;  at first weight_0 = 1 and the others 0, which changes nothing

    x: [B, N, C] -> (y [B, N, C], tail), tail [B, K-1, C]: the last real tokens, with which the next call goes on.
    mask: [B, N] bool, True = a real token: others are passed over, wherever they are.  cu_seqlens: packed sequences
    (B = 1; then there is no tail).
    """

    undecayed = ("weight",)

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        if width < 2:
            raise ValueError(f"ShortConv expects a width of at least 2 tokens, got {width}; leave it out instead")
        self.dim, self.width = dim, width
        self.weight = nn.Parameter(self.identity())

    def identity(self) -> Tensor:
        """The weights [K, C] that change nothing."""
        return torch.cat([torch.ones(1, self.dim), torch.zeros(self.width - 1, self.dim)])

    def forward(
        self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, tail: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        reach = self.width - 1
        if tail is None:
            tail = x.new_zeros(x.shape[0], reach, x.shape[2])
        if mask is None:
            position = None if cu_seqlens is None else token_positions(x, None, cu_seqlens, None)
            past = torch.cat([tail, x], 1)
            return self._taps(x, past, position), past[:, past.shape[1] - reach :]
        position = token_positions(x, mask, cu_seqlens, None)
        order = (~mask).long().argsort(dim=1, stable=True)  # the real tokens to the front, in their order
        place = order.argsort(dim=1)[..., None].expand_as(x)
        front = torch.where(mask[..., None], x, 0).gather(1, order[..., None].expand_as(x))
        past = torch.cat([tail, front], 1)
        y = self._taps(front, past, position.gather(1, order) if cu_seqlens is not None else None).gather(1, place)
        last = mask.sum(1, keepdim=True) + torch.arange(reach, device=x.device)  # in `past`, of the last real tokens
        return y, past.gather(1, last[..., None].expand(-1, -1, x.shape[2]))

    def _taps(self, x: Tensor, past: Tensor, position: Tensor | None) -> Tensor:
        """The sum over taps; `past` is x after K - 1 earlier tokens, `position` cuts off what is another sequence's."""
        N, weight = x.shape[1], self.weight.to(x.dtype)
        y = x * weight[0]
        for k in range(1, self.width):
            tap = past[:, self.width - 1 - k :][:, :N]
            y = torch.addcmul(y, tap if position is None else tap * (position >= k)[..., None], weight[k])
        return y

    def extra_repr(self) -> str:
        return f"width={self.width}"
