"""What every rate asks of its tokens and memberships, and the weights n_k / n of the groups."""

# B batch, N tokens, C features, K groups

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Rate = TypeVar("Rate", bound=Callable[..., Any])


def full_precision(rate: Rate) -> Rate:
    """`rate` of tensors computed without autocast, which would form its sums in half precision."""

    @wraps(rate)
    def computed(*args: Any, **kwargs: Any) -> Any:
        kinds = [value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.autocast(kinds[0] if kinds else "cpu", enabled=False):
            return rate(*args, **kwargs)

    return computed  # type: ignore[return-value]


class Rows(NamedTuple):
    """Tokens [B, N, C] with masked rows zero, in the dtype to compute in; `single` if the caller gave [N, C]."""

    tokens: Tensor
    mask: Tensor | None
    single: bool

    @property
    def n(self) -> Tensor:
        """n [B], the number of real tokens, at least 1."""
        B, N, _ = self.tokens.shape
        if self.mask is None:
            return self.tokens.new_full((B,), max(N, 1))
        return self.mask.sum(1).clamp_min(1).to(self.tokens.dtype)

    def shaped(self, value: Tensor) -> Tensor:
        """[B, ...], or without the batch axis for a single sequence."""
        return value.squeeze(0) if self.single else value


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
    if rows.mask is not None:
        pi = torch.where(rows.mask.unsqueeze(-1), pi, 0.0)
    return Groups(pi, pi.sum(1), rows.n.unsqueeze(-1))


def check_subspaces(name: str, rows: Rows, U: Tensor, K: int) -> Tensor:
    """U [K, C, P] (or [B, K, C, P]) in the dtype to compute in; ValueError if it doesn't fit the tokens and groups."""
    B, _, C = rows.tokens.shape
    fits = U.shape[:-1] == (K, C) or (U.shape[:-1] == (B, K, C) and not rows.single)
    if not fits:
        raise ValueError(
            f"{name} expects U of shape [K, C, P] = [{K}, {C}, P], got {list(U.shape)}; "
            "the rows of an in_proj weight [K*P, C] become U by weight.unflatten(0, (K, P)).transpose(1, 2)"
        )
    return U.to(rows.tokens.dtype)


def project(tokens: Tensor, U: Tensor) -> Tensor:
    """w_nk = U_k^T z_n: [B, N, C] -> [B, N, K, P]."""
    return torch.einsum("bnc,kcp->bnkp" if U.ndim == 3 else "bnc,bkcp->bnkp", tokens, U)
