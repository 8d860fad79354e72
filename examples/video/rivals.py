"""What a stream is measured beside: softmax attention with a cache of frames, and running everything again."""

# N tokens of a frame, H heads, D features per head, C features, k frames

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.models import ToSTVision
from tost.nn.mixers import SoftmaxAttention

GIB = 2**30


class FullCacheError(MemoryError):
    """The cache would grow beyond what it may hold."""


class CachedSoftmax(nn.Module):
    """Softmax attention from the tokens of a frame to those of the last `frames` frames and its own (None: of all).

    The keys and values lie in one buffer that is written in place, the oldest frame under the newest, so that nothing
    is copied and torch's fused attention needs no mask. Raises FullCacheError beyond `limit` bytes.
    """

    def __init__(self, layer: SoftmaxAttention, frames: int | None, limit: float = float("inf")) -> None:
        super().__init__()
        self.layer, self.frames, self.limit = layer, frames, limit
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.seen = self.tokens = 0  # frames, and tokens of a frame
        self.cache: Tensor | None = None  # [2, 1, H, room, D]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        layer, N = self.layer, x.shape[1]
        q, k, v = layer.in_proj(x).unflatten(-1, (3, layer.num_heads, layer.head_dim)).unbind(2)
        place = self.seen if self.frames is None else self.seen % self.frames
        cache = self._room(place + 1, N, k)
        cache[0, :, :, place * N : (place + 1) * N] = k.transpose(1, 2)
        cache[1, :, :, place * N : (place + 1) * N] = v.transpose(1, 2)
        self.seen, self.tokens = self.seen + 1, N
        held = self._held()
        y = F.scaled_dot_product_attention(q.transpose(1, 2), cache[0, :, :, :held], cache[1, :, :, :held])
        return layer.out_proj(y.transpose(1, 2).flatten(-2))

    def _room(self, frames: int, N: int, k: Tensor) -> Tensor:
        """The buffer with room for so many frames: allocated whole if its size is known, doubled if it isn't."""
        have = 0 if self.cache is None else self.cache.shape[3] // N
        if self.cache is None or frames > have:
            want = self.frames or max(4, 2 * have)
            size = 2 * want * N * self.layer.dim * k.element_size()
            if size > self.limit:
                raise FullCacheError(f"its cache would be over {self.limit / GIB:.1f} GiB a layer")
            grown = k.new_zeros(2, k.shape[0], self.layer.num_heads, want * N, self.layer.head_dim)
            if self.cache is not None:
                grown[:, :, :, : have * N] = self.cache
            self.cache = grown
        return self.cache

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        if self.cache is None:
            return 0
        return self.cache[:, :, :, : self._held()].numel() * self.cache.element_size()

    def _held(self) -> int:
        """Tokens in the cache."""
        return self.tokens * (self.seen if self.frames is None else min(self.seen, self.frames))


class Recomputed(nn.Module):
    """A model that keeps nothing but the last k frames and runs on all their tokens again: pixels -> tokens [N, C]."""

    def __init__(self, model: ToSTVision, frames: int) -> None:
        super().__init__()
        self.model, self.last = model, deque[Tensor](maxlen=frames)

    def reset(self) -> None:
        """Forget all frames."""
        self.last.clear()

    def forward(self, pixels: Tensor) -> Tensor:
        self.last.append(pixels)
        tokens, (height, width) = self.model.patch_embed(torch.cat(list(self.last)))
        N = tokens.shape[1]
        tokens = (tokens + self.model.pos_embed(height, width)).flatten(0, 1)[None]
        for block in self.model.blocks:
            tokens = block(tokens)
        return self.model.norm(tokens)[0, -N:]
