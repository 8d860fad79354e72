"""Causal softmax attention with the causal layers' signature: GPT-2's mixer, and the softmax layers of a hybrid."""

# B batch, N tokens, T tokens of earlier calls, H heads, D features per head, C = H*D, S packed sequences

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tost.nn.checks import check_mask, check_tokens
from tost.nn.order import count_after, token_positions
from tost.nn.readout import ReadoutMixer
from tost.nn.states import KeyValueState


class CausalSoftmax(ReadoutMixer):
    """softmax(q k^T / sqrt(D)) v over the tokens so far, by torch's fused kernel (SDPA): O(N^2) time, O(N) state.

    x: [B, N, C] -> [B, N, C], or (that, KeyValueState) with return_state=True.  mask, cu_seqlens, state: as CausalTSSA.
    rotary: turn queries and keys by their position (arXiv 2104.09864), in pairs of features (d, d + D/2) at the
    frequencies rotary_base^(-2d/D); then no other positions are needed.
    bias, attn_drop, proj_drop, output_gate, head_norm: options of the ReadoutMixer.
    Raises ValueError for sizes that disagree, or an odd D with rotary.
    """

    State = KeyValueState
    projections = 3

    def __init__(
        self, dim: int, num_heads: int = 8, *, rotary: bool = False, rotary_base: float = 10000.0, **options: Any
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if rotary and self.head_dim % 2:
            raise ValueError(
                f"CausalSoftmax turns pairs of features, got D = {self.head_dim}; choose an even dim / heads"
            )
        self.rotary, self.rotary_base = rotary, rotary_base

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: KeyValueState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, KeyValueState]:
        check_tokens("CausalSoftmax", x, self.dim)
        check_mask("CausalSoftmax", mask, x)
        (q, k, v), gate = self.readout.split(self.in_proj(x))
        length = None if state is None else state.length
        if self.rotary:
            positions = token_positions(x, mask, cu_seqlens, length)
            q, k = (rotate(t, positions, self.rotary_base) for t in (q, k))
        if cu_seqlens is not None:
            if state is not None or return_state:
                raise ValueError("CausalSoftmax keeps no state of packed sequences; pass them one batch row each")
            return self.proj_drop(self.out_proj(self.readout(self._packed(q, k, v, mask, cu_seqlens), gate)))
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        masked = mask is not None
        if state is not None:
            masked = masked or not bool(state.real.all())
            k, v = torch.cat([state.keys, k], 1), torch.cat([state.values, v], 1)
            real = torch.cat([state.real, real], 1)
        y = self._attend(q, k, v, real if masked else None)
        out = self.proj_drop(self.out_proj(self.readout(y, gate)))
        return (out, KeyValueState(k, v, real, count_after(x, mask, length))) if return_state else out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """q [B, N, H, D] at the last N of the T + N tokens of k, v; real [B, T + N] or None if all are."""
        N, past = q.shape[1], k.shape[1] - q.shape[1]
        allowed = None
        if real is not None or (past and N > 1):
            row, column = torch.arange(N, device=q.device) + past, torch.arange(past + N, device=q.device)
            allowed = (row[:, None] >= column)[None, None]
            if real is not None:  # a masked token sees itself: no empty row, no NaN
                allowed = (allowed & real[:, None, None]) | (row[:, None] == column)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        drop = self.attn_drop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, allowed, drop, is_causal=allowed is None and N > 1)
        return y.transpose(1, 2)

    def _packed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cu_seqlens: Tensor) -> Tensor:
        """Each packed sequence as a row of a padded batch [S, longest, H, D], and back."""
        bounds = cu_seqlens.to(q.device, torch.int64)
        lengths = bounds.diff()
        column = torch.arange(int(lengths.max()) if len(lengths) else 0, device=q.device)
        inside = column < lengths[:, None]
        index = torch.where(inside, bounds[:-1, None] + column, 0)
        real = None if mask is None else inside & mask[0, index]  # on the right, padding is hidden by causality alone
        y = self._attend(q[0, index], k[0, index], v[0, index], real)
        return y[inside][None]

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}, attn_drop={self.attn_drop}, rotary={self.rotary}"


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """x [B, N, H, D] turned by its positions [B or 1, N], angles in float32."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = positions[..., None].float() * frequency
    cos, sin = angle.cos()[:, :, None].to(x.dtype), angle.sin()[:, :, None].to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
