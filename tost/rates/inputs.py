"""What every rate asks of its tokens and memberships, and the weights n_k / n of the groups."""

# B batch, N tokens, C features, K groups

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Tokens [B, N, C] with masked rows zero, in the dtype to compute in; `single` if the caller gave [N, C]."""

    tokens: Tensor
    mask: Tensor | None
    single: bool

    def shaped(self, rate: Tensor) -> Tensor:
        """[B], or a scalar for a single sequence."""
        return rate.squeeze(0) if self.single else rate


class Groups(NamedTuple):
    """Memberships [B, N, K] with masked rows zero, their masses n_k [B, K], and n [B, 1] in `total`, at least 1."""

    membership: Tensor
    mass: Tensor
    total: Tensor

    @property
    def safe_mass(self) -> Tensor:
        """n_k, lifted off zero: an empty group's sums are zero and stay so."""
        return self.mass.clamp_min(torch.finfo(self.mass.dtype).tiny)

    def mean(self, per_group: Tensor) -> Tensor:
        """sum_k (n_k / n) x_k: [B, K] -> [B]."""
        return (self.mass * per_group / self.total).sum(-1)


def real_tokens(name: str, Z: Tensor, mask: Tensor | None, dtype: torch.dtype | None) -> Rows:
    """Check tokens and mask, add the batch axis, widen, and zero masked rows (chosen: they may hold NaN)."""
    if Z.ndim not in (2, 3) or not Z.is_floating_point() or Z.shape[-1] == 0:
        raise ValueError(f"{name} expects real tokens Z of shape [B, N, C] or [N, C], got {Z.dtype} {list(Z.shape)}")
    single = Z.ndim == 2
    tokens = (Z.unsqueeze(0) if single else Z).to(dtype or torch.promote_types(Z.dtype, torch.float32))
    if mask is None:
        return Rows(tokens, None, single)
    if mask.dtype != torch.bool or mask.shape != Z.shape[:-1]:
        raise ValueError(
            f"{name} expects a bool mask of shape {list(Z.shape[:-1])}, true for real tokens, "
            f"got {mask.dtype} {list(mask.shape)}"
        )
    mask = mask.unsqueeze(0) if single else mask
    return Rows(torch.where(mask.unsqueeze(-1), tokens, 0.0), mask, single)


def check_membership(name: str, rows: Rows, membership: Tensor) -> Groups:
    """Check memberships against the tokens and weigh the groups."""
    B, N, _ = rows.tokens.shape
    expected = [N] if rows.single else [B, N]
    if list(membership.shape[:-1]) != expected or membership.ndim != len(expected) + 1:
        raise ValueError(
            f"{name} expects membership of shape {[*expected, 'K']}, one row a token, got {list(membership.shape)}; "
            "labels become memberships by torch.nn.functional.one_hot"
        )
    pi = membership.to(rows.tokens.dtype)
    pi = pi.unsqueeze(0) if rows.single else pi
    if rows.mask is None:
        count = pi.new_full((B, 1), max(N, 1))
    else:
        pi = torch.where(rows.mask.unsqueeze(-1), pi, 0.0)
        count = rows.mask.sum(1, keepdim=True).clamp_min(1).to(pi.dtype)
    return Groups(pi, pi.sum(1), count)
