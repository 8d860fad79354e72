"""Theorem 1 (arXiv 2412.17810, section 3.2): the bound by a diagonal, and the bases that attain it."""

# B batch, N tokens, C features, K groups, P subspace dimensions per group

from __future__ import annotations

import torch
from torch import Tensor

from tost.rates.concave import Concave, LogRate
from tost.rates.inputs import check_membership, full_precision, real_tokens


def spectral_rate(M: Tensor, f: Concave | None = None) -> Tensor:
    """F(M) = sum_i f(lambda_i(M)) of symmetric positive semidefinite M [..., C, C]; f: None is log(1 + x).

    Returns [...]. Raises ValueError if M isn't square.
    """
    _check_square("spectral_rate", M)
    return (f or LogRate()).spectral(M)


def diagonal_bound(M: Tensor, Q: Tensor, f: Concave | None = None) -> Tensor:
    """Theorem 1's bound sum_i f((Q^T M Q)_ii) >= F(M), for Q orthogonal.

    Equal where Q diagonalises M, and only there if f is strictly concave. A Q [..., C, P] of P < C orthonormal columns
    bounds F(M) if their span holds the image of M.  M, f: as in `spectral_rate`.  Returns [...].
    """
    _check_square("diagonal_bound", M)
    if Q.shape[-2:-1] != M.shape[-1:]:
        raise ValueError(f"diagonal_bound expects Q of shape [..., {M.shape[-1]}, P], got {list(Q.shape)}")
    return (f or LogRate())((Q * (M @ Q)).sum(-2).clamp_min(0)).sum(-1)


def attaining_basis(M: Tensor, width: int | None = None) -> Tensor:
    """The Q [..., C, C] for which `diagonal_bound` is F(M): eigenvectors, the largest eigenvalue first.

    With a `width` P the first P columns, which attain F(M) if M has rank P or less.
    """
    _check_square("attaining_basis", M)
    return torch.linalg.eigh(M)[1].flip(-1)[..., :width]


@full_precision
def attaining_subspaces(
    Z: Tensor,
    membership: Tensor,
    width: int | None = None,
    *,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The U for which `variational_rate` is `compression_rate`, whatever f: principal directions of every group.

    Z: [B, N, C] or [N, C].  membership, mask, dtype: as in `compression_rate`.  Returns [B, K, C, P] or [K, C, P] with
    orthonormal columns, P = width or C; narrower than C they attain it if no group has more than P dimensions.
    """
    rows = real_tokens("attaining_subspaces", Z, mask, dtype)
    pi = check_membership("attaining_subspaces", rows, membership).membership
    moments = [(weights.unsqueeze(-1) * rows.tokens).mT @ rows.tokens for weights in pi.unbind(-1)]
    return rows.shaped(attaining_basis(torch.stack(moments, 1), width))


def _check_square(name: str, M: Tensor) -> None:
    if M.ndim < 2 or M.shape[-1] != M.shape[-2]:
        raise ValueError(f"{name} expects symmetric matrices M of shape [..., C, C], got {list(M.shape)}")
