"""Spectral sums F(M) = sum_i f(lambda_i(M)) of concave functions f: what a covariance costs."""

# M [..., p, p] symmetric, positive semidefinite; x any shape, non-negative

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Concave:
    """A non-decreasing concave f with f(0) = 0, applied to variances one by one or to the spectrum of a covariance."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, x: Tensor) -> Tensor:
        """f'(x), a constant for autograd unless a subclass writes it out."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self(x).sum(), x)[0]

    def spectral(self, M: Tensor) -> Tensor:
        """F(M) [...] from M's eigenvalues; its first derivative is exact at repeated eigenvalues too.

        Eigenvalues within rounding of 0 (p times the dtype's precision times the largest) count as 0.
        """
        eigenvalues = torch.linalg.eigvalsh(M)
        rounding = M.shape[-1] * torch.finfo(M.dtype).eps * eigenvalues.detach()[..., -1:].clamp_min(0)
        nulls = torch.where(eigenvalues > rounding, 0.0, eigenvalues).detach()
        return self(eigenvalues - nulls).sum(-1)  # the value is lifted, the slope kept


@dataclass(frozen=True)
class LogRate(Concave):
    """f(x) = log(1 + scale * x): with scale = d / eps^2 the coding rate, with scale = 1 what the operator descends."""

    scale: float = 1.0

    @classmethod
    def coding(cls, dim: int, eps: float) -> LogRate:
        """The coding rate's: scale = dim / eps^2, for tokens of `dim` features and a squared error of eps^2."""
        if not eps > 0:
            raise ValueError(f"a coding rate expects a distortion eps > 0, got {eps}")
        return cls(dim / eps**2)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.log1p(self.scale * x)

    def slope(self, x: Tensor) -> Tensor:
        return self.scale / (1 + self.scale * x)

    def spectral(self, M: Tensor) -> Tensor:
        """logdet(I + scale * M), from a Cholesky factor; from eigenvalues where rounding leaves none."""
        identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        factor, failed = torch.linalg.cholesky_ex(torch.add(identity, M, alpha=self.scale))
        if bool(failed.any()) and bool(M.isfinite().all()):
            return super().spectral(M)
        return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@dataclass(frozen=True)
class PowerRate(Concave):
    """f(x) = ((x + smooth)^exponent - smooth^exponent) / exponent, exponent in (0, 1]; 1 charges the variance itself.

    `smooth` > 0 keeps the slope at 0 finite.
    """

    exponent: float = 0.5
    smooth: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 1 or self.smooth <= 0:
            raise ValueError(
                "PowerRate expects an exponent in (0, 1] and smooth > 0, "
                f"got exponent={self.exponent}, smooth={self.smooth}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        return ((x + self.smooth) ** self.exponent - self.smooth**self.exponent) / self.exponent

    def slope(self, x: Tensor) -> Tensor:
        return (x + self.smooth) ** (self.exponent - 1)


@dataclass(frozen=True)
class SaturatingRate(Concave):
    """f(x) = x / (1 + x): bounded, so that no direction costs more than 1."""

    def __call__(self, x: Tensor) -> Tensor:
        return x / (1 + x)

    def slope(self, x: Tensor) -> Tensor:
        return (1 + x) ** -2


@dataclass(frozen=True)
class Custom(Concave):
    """Any elementwise callable that is non-decreasing and concave on x >= 0 with f(0) = 0."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_concave(f: Callable[[Tensor], Tensor] | None, dim: int, eps: float) -> Concave:
    """f itself, wrapped if it is a plain callable; None is the coding rate's log(1 + dim / eps^2 * x)."""
    if f is None:
        return LogRate.coding(dim, eps)
    return f if isinstance(f, Concave) else Custom(f)
