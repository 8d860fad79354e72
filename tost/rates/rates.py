"""The objective: coding rate, compression term and its variational upper bound (arXiv 2412.17810, section 3.1)."""

# B batch, N tokens, C features, K groups (heads), P subspace dimensions per group; n real tokens, n_k = sum_n Pi_nk

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tost.rates.concave import Concave, as_concave
from tost.rates.inputs import Groups, check_membership, real_tokens

Function = Callable[[Tensor], Tensor]


def coding_rate(Z: Tensor, eps: float = 0.5, *, mask: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Coding rate: nats per token to code the tokens up to an expected squared error of eps^2.

        R = 1/2 logdet(I + C / (n eps^2) Z^T Z)

    Z: [B, N, C] or [N, C], one row a token.  mask: [B, N] bool, true = a real token (the others don't count).
    dtype: what to compute in (None: float32 or wider).  Returns [B], or a scalar for one sequence. Differentiable; uses
    the smaller Gram, so time is O(N C min(N, C)). Raises ValueError if shapes disagree.
    """
    rows = real_tokens("coding_rate", Z, mask, dtype)
    whole = check_membership("coding_rate", rows, torch.ones_like(Z[..., :1]))
    return rows.shaped(_exact_rate(rows.tokens, whole, as_concave(None, Z.shape[-1], eps)))


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
    Returns [B] or a scalar. A group without tokens costs nothing. O(B K N C min(N, C)) time.
    """
    rows = real_tokens("compression_rate", Z, mask, dtype)
    groups = check_membership("compression_rate", rows, membership)
    return rows.shaped(_exact_rate(rows.tokens, groups, as_concave(f, Z.shape[-1], eps)))


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

    U: [K, C, P].  With orthonormal columns whose span holds group k's tokens it bounds `compression_rate` from above,
    and equals it where U_k diagonalises the group's covariance (theorem 1). The others: as in `compression_rate`.
    """
    rows = real_tokens("variational_rate", Z, mask, dtype)
    groups = check_membership("variational_rate", rows, membership)
    C, K = Z.shape[-1], membership.shape[-1]
    if U.ndim != 3 or U.shape[:2] != (K, C):
        raise ValueError(
            f"variational_rate expects U of shape [K, C, P] = [{K}, {C}, P], got {list(U.shape)}; "
            "the rows of an in_proj weight [K*P, C] become U by weight.unflatten(0, (K, P)).transpose(1, 2)"
        )
    projected = torch.einsum("bnc,kcp->bnkp", rows.tokens, U.to(rows.tokens.dtype))
    return rows.shaped(_diagonal_rate(projected, groups, as_concave(f, C, eps)))


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


def rate_reduction(
    Z: Tensor, membership: Tensor, eps: float = 0.5, *, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """What maximal coding rate reduction maximises: R(Z) - R_c(Z, Pi), never negative. Arguments as above."""
    whole = coding_rate(Z, eps, mask=mask, dtype=dtype)
    return whole - compression_rate(Z, membership, eps, mask=mask, dtype=dtype)


def _exact_rate(tokens: Tensor, groups: Groups, rate: Concave) -> Tensor:
    """1/2 sum_k (n_k/n) F(covariance of group k): [B, N, C] -> [B]."""
    return groups.mean(rate.spectral(_weighted_gram(tokens, groups))) / 2


def _diagonal_rate(projected: Tensor, groups: Groups, rate: Concave) -> Tensor:
    """1/2 sum_k (n_k/n) sum_i f(second moment i of group k): [B, N, K, P] -> [B]."""
    moment = torch.einsum("bnk,bnkp->bkp", groups.membership, projected.square()) / groups.safe_mass.unsqueeze(-1)
    return groups.mean(rate(moment).sum(-1)) / 2


def _weighted_gram(tokens: Tensor, groups: Groups) -> Tensor:
    """A matrix with the non-zero eigenvalues of Z^T Diag(pi_k) Z / n_k, [B, K, C, C] or [B, K, N, N]: the smaller."""
    # the square root's slope is infinite at 0, so it starts from the smallest normal number: products with it are exact
    root = (groups.membership + torch.finfo(tokens.dtype).tiny).sqrt().transpose(1, 2)  # [B, K, N]
    scaled = root.unsqueeze(-1) * tokens.unsqueeze(1)  # [B, K, N, C]
    n, c = tokens.shape[1:]
    gram = scaled.transpose(-1, -2) @ scaled if c <= n else scaled @ scaled.transpose(-1, -2)
    return gram / groups.safe_mass[..., None, None]
