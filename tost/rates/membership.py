"""Memberships: how a mixture of Gaussians on subspaces shares tokens among them."""

# B batch, N tokens, C features, K groups, P subspace dimensions per group

from __future__ import annotations

import torch
from torch import Tensor

from tost.rates.inputs import check_subspaces, full_precision, project, real_tokens

FLOOR = 1e-24  # of an energy, as in the operator


@full_precision
def memberships(
    Z: Tensor,
    U: Tensor,
    temperature: Tensor | float = 1.0,
    *,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Pi of tokens for subspaces, as the operator computes it from w = U^T z (arXiv 2412.17810, section 3.3).

        Pi_nk = softmax_k( t_k sum_p w_nkp^2 / a_kp )        a_kp = sum_n w_nkp^2

    Z: [B, N, C] or [N, C].  U: [K, C, P] (or [B, K, C, P]).  temperature: a number or [K].  mask, dtype: as in
    `coding_rate`.  Returns [B, N, K] or [N, K]: rows sum to 1, those of masked tokens to 0.
    """
    rows = real_tokens("memberships", Z, mask, dtype)
    U = check_subspaces("memberships", rows, U, U.shape[-3] if U.ndim > 2 else 0)
    energy = project(rows.tokens, U).square()
    shares = (energy / energy.sum(1, keepdim=True).clamp_min(FLOOR)).sum(-1)
    pi = (shares * torch.as_tensor(temperature).to(shares)).softmax(-1)
    return rows.shaped(pi if rows.mask is None else torch.where(rows.mask.unsqueeze(-1), pi, 0.0))
