"""TSSA with one of its parts changed: what each part is for, and what others put in its place."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from tost.nn.checks import check_mask, check_tokens
from tost.nn.linear import Linear
from tost.nn.tssa import TSSA
from tost.ops.common import MASS_EPS


class TSSAVariant(TSSA):
    """TSSA whose memberships come from `assign`: plain torch, no packed sequences; arguments as in TSSA.

    w = in_proj(x)      Pi = assign(x, w)      m_hd = sum_n Pi w^2 / sum_n Pi      out = out_proj(-Pi w / (1 + m))
    """

    packs = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        name = type(self).__name__
        check_tokens(name, x, self.dim)
        check_mask(name, mask, x)
        w = self.project(x)
        pi = self._membership(x, w, mask)
        m = torch.einsum("bnh,bnhd->bhd", pi, w.square()) / (pi.sum(1)[..., None] + MASS_EPS)
        y = -pi[..., None] * w / (1 + m[:, None])
        if self.training and self.attn_drop > 0:
            y = y * self._dropout(y, None)
        return self.proj_drop(self.read(y))

    def membership(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self._membership(x, self.project(x), mask)

    def _membership(self, x: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
        pi = self.assign(x, w, mask)
        return pi if mask is None else pi * mask[..., None]

    def assign(self, x: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
        """Pi [B, N, H] of tokens x [B, N, C] with projections w [B, N, H, D]; masked tokens change no other's."""
        p = w.square() if mask is None else w.square() * mask[..., None, None]
        return torch.softmax(self.temperature * (p / p.sum(1, keepdim=True).clamp_min(1e-24)).sum(-1), -1)

    def read(self, y: Tensor) -> Tensor:
        """[B, N, H, D] -> [B, N, C]."""
        return self.out_proj(y.flatten(-2))


class UnscaledTSSA(TSSAVariant):
    """Without the normalisation in Pi (arXiv 2412.17810, ablation): Pi = softmax_h(temperature_h * sum_d w^2)."""

    def assign(self, x: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
        return torch.softmax(self.temperature * w.square().sum(-1), -1)


class UniformTSSA(TSSAVariant):
    """Without groups: Pi = 1 / H.  What is left is a gate 1 / (1 + mean_n w^2) for each feature."""

    undecayed = ()

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, bias, attn_drop, proj_drop)
        del self.temperature  # nothing is scored

    def assign(self, x: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
        return w.new_full(w.shape[:3], 1 / self.num_heads)


class OrthonormalTSSA(TSSAVariant):
    """The step that the theory derives (arXiv 2412.17810, eq. 13): orthonormal U_k, and the way back is U_k itself.

    out = -step * sum_k U_k diag(1 / (1 + m_k)) U_k^T x diag(Pi_k)      U_k: [C, D], U_k^T U_k = I

    One learned step replaces out_proj; there are no biases (`bias` is ignored).
    """

    undecayed = ("temperature", "step")

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, False, attn_drop, proj_drop)
        del self.in_proj, self.out_proj
        self.basis = nn.Parameter(torch.empty(num_heads, dim, self.head_dim))
        nn.init.trunc_normal_(self.basis)
        # not torch's default map: it reads the sign of a diagonal that weight decay would shrink to zero
        orthogonal(self, "basis", "cayley", use_trivialization=False)
        self.step = nn.Parameter(torch.ones(()))

    def project(self, x: Tensor) -> Tensor:
        return torch.einsum("bnc,hcd->bnhd", x, self.basis)

    def read(self, y: Tensor) -> Tensor:
        return self.step * torch.einsum("bnhd,hcd->bnc", y, self.basis)


class DecoupledTSSA(TSSAVariant):
    """Memberships that don't hang on U, after DMSA (arXiv 2601.17042): Pi = softmax(membership_proj(x)).

    The idea in its plainest form, a linear score for each head; not that paper's code.
    """

    undecayed = ()

    def __init__(
        self, dim: int, num_heads: int = 8, bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, bias, attn_drop, proj_drop)
        del self.temperature
        self.membership_proj = Linear(dim, num_heads, bias=bias)

    def assign(self, x: Tensor, w: Tensor, mask: Tensor | None) -> Tensor:
        return torch.softmax(self.membership_proj(x), -1)
