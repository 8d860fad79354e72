"""The token mixers a block takes by name: ours, and the baselines of every comparison, with the same signature."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tost.nn.cbsa import CBSA
from tost.nn.checks import check_mask, check_tokens, head_dim
from tost.nn.linear import Linear
from tost.nn.split import Split
from tost.nn.tssa import TSSA
from tost.nn.tssa_variants import DecoupledTSSA, OrthonormalTSSA, UniformTSSA, UnscaledTSSA


class QKVMixer(nn.Module):
    """What the query-key-value baselines share: in_proj to q, k, v of [B, N, H, D], `mix`, out_proj.

    x: [B, N, C] -> [B, N, C].  mask: [B, N] bool, True = a real token; no other token changes a real token's output.
    cu_seqlens: [S + 1], boundaries of sequences packed along N (then B = 1); `mix` sees one after the other.
    """

    packs = True

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = head_dim(type(self).__name__, dim, num_heads)
        self.attn_drop = attn_drop
        self.in_proj = Linear(dim, 3 * dim, bias=bias)
        self.out_proj = Linear(dim, dim, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        check_tokens(type(self).__name__, x, self.dim)
        check_mask(type(self).__name__, mask, x)
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        y = self.mix(q, k, v, mask) if cu_seqlens is None else self._packed(q, k, v, mask, cu_seqlens)
        return self.proj_drop(self.out_proj(y.flatten(-2)))

    def _packed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cu_seqlens: Tensor) -> Tensor:
        """`mix` of each sequence by itself."""
        lengths = cu_seqlens.diff().tolist()
        if len(q) != 1 or sum(lengths) != q.shape[1] or min(lengths, default=0) < 0:
            raise ValueError(
                f"{type(self).__name__} expects cu_seqlens to rise from 0 to N = {q.shape[1]} with B = 1, got "
                f"{cu_seqlens.tolist()[:5]}, ... with B = {len(q)}"
            )
        masks = [None] * len(lengths) if mask is None else mask.split(lengths, 1)
        parts = zip(*(t.split(lengths, 1) for t in (q, k, v)), masks)
        return torch.cat([self.mix(*part) for part in parts if part[0].shape[1]] or [q], 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q, k, v: [B, N, H, D] -> [B, N, H, D]."""
        raise NotImplementedError


class SoftmaxAttention(QKVMixer):
    """softmax(q k^T / sqrt(D)) v by torch's fused kernel (SDPA): the ViT and GPT-2 baseline, O(N^2) time."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attend = None
        if mask is not None:
            empty = ~mask.any(dim=1, keepdim=True)  # a row without a real token attends anywhere: no NaN
            attend = (mask | empty)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attend, self.attn_drop if self.training else 0.0)
        return y.transpose(1, 2)


class CrossCovariance(QKVMixer):
    """XCiT's cross-covariance attention (arXiv 2106.09681): D x D attention between features, O(N) time.

    q, k scaled to unit norm over tokens      y = v softmax(temperature_h * q^T k)^T
    """

    undecayed = ("temperature",)

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, bias, attn_drop, proj_drop)
        self.temperature = nn.Parameter(torch.ones(num_heads))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            q, k = (t.masked_fill(~mask[:, :, None, None], 0) for t in (q, k))
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        scores = torch.einsum("bnhi,bnhj->bhij", q, k) * self.temperature[:, None, None]
        attention = F.dropout(scores.softmax(dim=-1), self.attn_drop, self.training)
        return torch.einsum("bnhj,bhij->bnhi", v, attention)


class LinearAttention(QKVMixer):
    """Linear attention (arXiv 2006.16236) with the feature map f = elu + 1, O(N) time.

        y_n = f(q_n) sum_s f(k_s) v_s^T / (f(q_n) . sum_s f(k_s))

    `attn_drop` zeroes entries of the D x D sums of f(k) v^T.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if mask is not None:
            k = k.masked_fill(~mask[:, :, None, None], 0)
        total = torch.einsum("bnhi,bnhj->bhij", k, v)
        total = F.dropout(total, self.attn_drop, self.training)
        scale = torch.einsum("bnhi,bhi->bnh", q, k.sum(dim=1)).clamp_min(1e-6)
        return torch.einsum("bnhi,bhij->bnhj", q, total) / scale[..., None]


class NoMixing(nn.Module):
    """The control of every comparison: TSSA's two projections and nothing between tokens.

        out = out_proj(in_proj(x))

    x: [B, N, C] -> [B, N, C]; `mask` and `cu_seqlens` change nothing, since no token sees another.
    `attn_drop` zeroes features between the projections, one draw per sample as in TSSA.
    """

    packs = True
    split_over: Split | None = None

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        head_dim("NoMixing", dim, num_heads)
        self.dim = dim
        self.attn_drop = attn_drop
        self.in_proj = Linear(dim, dim, bias=bias)
        self.out_proj = Linear(dim, dim, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        check_tokens("NoMixing", x, self.dim)
        w = self.in_proj(x)
        if self.training and self.attn_drop > 0:
            draw = F.dropout(w.new_ones(w.shape[0], 1, self.dim), self.attn_drop)
            w = w * (draw if self.split_over is None else self.split_over.shared(draw))
        return self.proj_drop(self.out_proj(w))


MIXERS: dict[str, type[nn.Module]] = {
    "tssa": TSSA,
    "softmax": SoftmaxAttention,
    "xca": CrossCovariance,
    "linear": LinearAttention,
    "none": NoMixing,
    "cbsa": CBSA,
    "tssa-unscaled": UnscaledTSSA,
    "tssa-uniform": UniformTSSA,
    "tssa-orthonormal": OrthonormalTSSA,
    "tssa-decoupled": DecoupledTSSA,
}


def make_mixer(
    name: str, dim: int, num_heads: int, *, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
) -> nn.Module:
    """The mixer called `name` in MIXERS. Raises ValueError, listing the table, for an unknown name."""
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}; choose one of {', '.join(MIXERS)}")
    return MIXERS[name](dim, num_heads, bias=bias, attn_drop=attn_drop, proj_drop=proj_drop)
