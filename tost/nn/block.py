"""One layer of every encoder here: mix over tokens, then a token-wise MLP."""

# B batch, N tokens, C features

from __future__ import annotations

import torch
from torch import Tensor, nn

from tost.nn.drop_path import DropPath
from tost.nn.ista import Ista
from tost.nn.mixers import make_mixer
from tost.nn.mlp import Mlp

FEED_FORWARDS = ("mlp", "ista")


class Block(nn.Module):
    """Residual block with LayerScale and stochastic depth.

        x = x + gamma1 * mixer(LN(x))      x = x + gamma2 * MLP(LN(x))

    x: [B, N, C] -> [B, N, C].  mask: [B, N] bool, True = a real token.  cu_seqlens: packed sequences, where the mixer
    takes them (not cbsa and the variants of tssa).  mixer: a name in MIXERS.
    layer_scale_init: the initial gammas, None leaves them out.
    feed_forward: "mlp", or "ista", the step that the theory derives: x = Ista(LN(x)), without gamma2.
    norm_first: False puts the norms after the sums, x = LN(x + gamma1 * mixer(x)), as the first transformers had it.
    Raises ValueError for an unknown mixer or feed_forward, sizes that don't divide, or cu_seqlens that the mixer can't
    take.
    """

    undecayed = ("gamma1", "gamma2")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mixer: str = "tssa",
        mlp_ratio: float = 4.0,
        bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale_init: float | None = 1.0,
        norm_eps: float = 1e-6,
        feed_forward: str = "mlp",
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        if feed_forward not in FEED_FORWARDS:
            raise ValueError(f"unknown feed_forward {feed_forward!r}; choose one of {', '.join(FEED_FORWARDS)}")
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.mixer_name = mixer
        self.mixer = make_mixer(mixer, dim, num_heads, bias=bias, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.feed_forward, self.norm_first = feed_forward, norm_first
        self.mlp = Ista(dim) if feed_forward == "ista" else Mlp(dim, int(dim * mlp_ratio), drop, bias)
        self.drop_path = DropPath(drop_path)
        self.gamma1 = None if layer_scale_init is None else nn.Parameter(torch.full((dim,), layer_scale_init))
        if feed_forward == "ista":
            layer_scale_init = None
        self.gamma2 = None if layer_scale_init is None else nn.Parameter(torch.full((dim,), layer_scale_init))

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        h = self.norm1(x) if self.norm_first else x
        if cu_seqlens is None:
            return self._finish(x, self.mixer(h, mask=mask))
        if getattr(self.mixer, "packs", False):
            return self._finish(x, self.mixer(h, mask=mask, cu_seqlens=cu_seqlens))
        raise ValueError(
            f"the mixer {self.mixer_name!r} does not take packed sequences (cu_seqlens); "
            "pad them to one length and pass a mask"
        )

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The block's output, from its input and what the mixer made of it."""
        x = self._add(x, self.gamma1, mixed)
        if self.norm_first:
            new = self.mlp(self.norm2(x))
            return new if self.feed_forward == "ista" else self._add(x, self.gamma2, new)
        x = self.norm1(x)
        new = self.mlp(x)
        return self.norm2(new if self.feed_forward == "ista" else self._add(x, self.gamma2, new))

    def _add(self, x: Tensor, gamma: Tensor | None, branch: Tensor) -> Tensor:
        branch = self.drop_path(branch)
        return x + branch if gamma is None else torch.addcmul(x, gamma, branch)
