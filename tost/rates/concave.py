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

    def spectral(self, M: Tensor) -> Tensor:
        """F(M) [...] from M's eigenvalues; its first derivative is exact at repeated eigenvalues too."""
        eigenvalues = torch.linalg.eigvalsh(M)
        # rounding leaves zeros slightly negative: lift the value, keep the slope
        return self(eigenvalues + (eigenvalues.clamp_min(0) - eigenvalues).detach()).sum(-1)


@dataclass(frozen=True)
class LogRate(Concave):
    """f(x) = log(1 + scale * x): with scale = d / eps^2 the coding rate, with scale = 1 what the operator descends."""

    scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.log1p(self.scale * x)

    def spectral(self, M: Tensor) -> Tensor:
        """logdet(I + scale * M), from a Cholesky factor."""
        identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        factor = torch.linalg.cholesky(torch.add(identity, M, alpha=self.scale))
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


@dataclass(frozen=True)
class SaturatingRate(Concave):
    """f(x) = x / (1 + x): bounded, so that no direction costs more than 1."""

    def __call__(self, x: Tensor) -> Tensor:
        return x / (1 + x)


@dataclass(frozen=True)
class Custom(Concave):
    """Any elementwise callable that is non-decreasing and concave on x >= 0 with f(0) = 0."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_concave(f: Callable[[Tensor], Tensor] | None, dim: int, eps: float) -> Concave:
    """f itself, wrapped if it is a plain callable; None is the coding rate's log(1 + dim / eps^2 * x)."""
    if f is None:
        if not eps > 0:
            raise ValueError(f"a coding rate expects a distortion eps > 0, got {eps}")
        return LogRate(dim / eps**2)
    return f if isinstance(f, Concave) else Custom(f)
