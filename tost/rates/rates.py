"""The objective: coding rate, compression term and its variational upper bound (arXiv 2412.17810, section 3.1)."""

# B batch, N tokens, C features, K groups (heads), P subspace dimensions per group; n real tokens, n_k = sum_n Pi_nk

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tost.rates.concave import Concave, LogRate, as_concave
from tost.rates.gram import group_rate, group_rates
from tost.rates.inputs import Groups, check_membership, check_subspaces, full_precision, project, real_tokens

Function = Callable[[Tensor], Tensor]


@full_precision
def coding_rate(Z: Tensor, eps: float = 0.5, *, mask: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Coding rate: nats per token to code the tokens up to an expected squared error of eps^2.

        R = 1/2 logdet(I + C / (n eps^2) Z^T Z)

    Z: [B, N, C] or [N, C], one row a token.  mask: [B, N] bool, true = a real token (the others don't count).
    dtype: what to compute in (None: float32 or wider).  Returns [B], or a scalar for one sequence. Differentiable; uses
    the smaller Gram, so time is O(N C min(N, C)). Raises ValueError if shapes disagree.
    """
    rows = real_tokens("coding_rate", Z, mask, dtype)
    return rows.shaped(group_rate(rows.tokens, None, rows.n, LogRate.coding(Z.shape[-1], eps)) / 2)


@full_precision
def compression_rate(
    Z: Tensor,
    membership: Tensor,
    eps: float = 0.5,
    *,
    f: Function | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The exact compression term: the mean rate of the groups' covariances.

        R_c = 1/2 sum_k (n_k / n) F(Z^T Diag(pi_k) Z / n_k)        F(M) = sum_i f(lambda_i(M))

    Z: [B, N, C] or [N, C].  membership: [B, N, K] (or [N, K]), rows sum to 1.  mask, dtype: as in `coding_rate`.
    f: a `Concave` or an elementwise callable, non-decreasing and concave with f(0) = 0; None is log(1 + C / eps^2 x).
    Returns [B] or a scalar. A group without tokens costs nothing. O(B K N C min(N, C)) time; K times less with labels
    for groups (one sequence, on the CPU).
    """
    rows = real_tokens("compression_rate", Z, mask, dtype)
    groups = check_membership("compression_rate", rows, membership)
    rates = group_rates(rows.tokens, groups, as_concave(f, Z.shape[-1], eps))
    return rows.shaped(groups.mean(rates) / 2)


@full_precision
def variational_rate(
    Z: Tensor,
    membership: Tensor,
    U: Tensor,
    eps: float = 0.5,
    *,
    f: Function | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The variational compression term, which needs no eigenvalues: O(B N K C P) time.

        Rvar_c = 1/2 sum_k (n_k / n) sum_i f((U_k^T Z^T Diag(pi_k) Z U_k)_ii / n_k)

    U: [K, C, P], or [B, K, C, P].  With orthonormal columns whose span holds group k's tokens it bounds
    `compression_rate` from above, and equals it where U_k diagonalises the group's covariance (theorem 1).
    The others: as in `compression_rate`.
    """
    rows = real_tokens("variational_rate", Z, mask, dtype)
    groups = check_membership("variational_rate", rows, membership)
    U = check_subspaces("variational_rate", rows, U, membership.shape[-1])
    return rows.shaped(_diagonal_rate(project(rows.tokens, U), groups, as_concave(f, Z.shape[-1], eps)))


@full_precision
def variational_gradient(
    Z: Tensor,
    membership: Tensor,
    U: Tensor,
    eps: float = 0.5,
    *,
    f: Function | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The gradient of `variational_rate` with respect to the tokens, in closed form and O(N K C P).

        (1/n) sum_k pi_nk U_k D_k U_k^T z_n        D_k = Diag( f'[ sum_n pi_nk (U_k^T z_n)^2 / n_k ] )

    For orthonormal U and f = LogRate(1) it is -1/n times what the operator returns, lifted back by U.
    Arguments as in `variational_rate`.  Returns the shape of Z, float32 or wider; rows of masked tokens are 0.
    """
    rows = real_tokens("variational_gradient", Z, mask, dtype)
    groups = check_membership("variational_gradient", rows, membership)
    U = check_subspaces("variational_gradient", rows, U, membership.shape[-1])
    projected = project(rows.tokens, U)
    slope = as_concave(f, Z.shape[-1], eps).slope(_moment(projected, groups))
    weights = groups.membership / rows.n[:, None, None]
    step = weights.unsqueeze(-1) * projected * slope.unsqueeze(1)
    return rows.shaped(torch.einsum("bnkp,kcp->bnc" if U.ndim == 3 else "bnkp,bkcp->bnc", step, U))


@full_precision
def projected_rate(
    w: Tensor,
    membership: Tensor,
    *,
    f: Function | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`variational_rate` of tokens that are already projected, as the operator sees them.

        1/2 sum_k (n_k / n) sum_i f(sum_n pi_nk w_nki^2 / n_k)

    w: [B, N, K, P].  membership: [B, N, K].  f: None is log(1 + x), whose slope is the operator's gate 1 / (1 + m).
    Returns [B].
    """
    if w.ndim != 4:
        raise ValueError(f"projected_rate expects w of shape [B, N, K, P], got {list(w.shape)}")
    rows = real_tokens("projected_rate", w.flatten(2), mask, dtype)
    groups = check_membership("projected_rate", rows, membership)
    return _diagonal_rate(rows.tokens.view(w.shape), groups, as_concave(f, 1, 1.0))


@full_precision
def rate_reduction(
    Z: Tensor, membership: Tensor, eps: float = 0.5, *, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """What maximal coding rate reduction maximises: R(Z) - R_c(Z, Pi), never negative. Arguments as above."""
    whole = coding_rate(Z, eps, mask=mask, dtype=dtype)
    return whole - compression_rate(Z, membership, eps, mask=mask, dtype=dtype)


def _diagonal_rate(projected: Tensor, groups: Groups, rate: Concave) -> Tensor:
    """1/2 sum_k (n_k/n) sum_i f(second moment i of group k): [B, N, K, P] -> [B]."""
    return groups.mean(rate(_moment(projected, groups)).sum(-1)) / 2


def _moment(projected: Tensor, groups: Groups) -> Tensor:
    """sum_n pi_nk w_nkp^2 / n_k: [B, N, K, P] -> [B, K, P]."""
    return torch.einsum("bnk,bnkp->bkp", groups.membership, projected.square()) / groups.safe_mass.unsqueeze(-1)
