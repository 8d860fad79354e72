"""Maximal coding rate reduction: a loss to learn features by, and the nearest subspace to read them with."""

# N examples, C features, K classes, P dimensions of a class's subspace

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tost.rates.bound import attaining_subspaces
from tost.rates.inputs import full_precision
from tost.rates.rates import rate_reduction


def sphere(features: Tensor) -> Tensor:
    """Features [..., C] scaled to unit length, float32 or wider; 0 stays 0."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return nn.functional.normalize(wide, dim=-1)


class MCR2Loss(nn.Module):
    """-(R - R_c) of features on the unit sphere, grouped by class (maximal coding rate reduction, arXiv 2006.08558).

    features [N, C], targets: labels [N] or memberships [N, K] (mixtures) -> scalar, at least float32. It is a loss of
    the whole batch, not a mean over examples: a batch wants several times C of them.  eps: the distortion; a smaller
    one counts finer differences.  Raises ValueError for a label outside 0 to num_classes - 1.
    """

    def __init__(self, num_classes: int, eps: float = 0.5) -> None:
        super().__init__()
        self.num_classes, self.eps = num_classes, eps

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        return -rate_reduction(sphere(features), memberships_of(targets, self.num_classes), self.eps)


def memberships_of(targets: Tensor, num_classes: int) -> Tensor:
    """Labels [N] as float32 memberships [N, K]; memberships stay as they are."""
    if targets.ndim == 2 and targets.is_floating_point():
        return targets
    if targets.ndim != 1 or (targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes):
        raise ValueError(
            f"expected labels [N] from 0 to {num_classes - 1} or memberships [N, {num_classes}], "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    return nn.functional.one_hot(targets.long(), num_classes).float()


@dataclass(frozen=True)
class NearestSubspace:
    """A classifier of features by the class whose principal directions leave least of them: no weights are trained.

        class(z) = argmin_k |z - U_k U_k^T z|^2

    basis: U [K, C, P], orthonormal columns, through the origin like the subspaces that the coding rate counts.
    """

    basis: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, features: Tensor, labels: Tensor, num_classes: int, width: int) -> NearestSubspace:
        """The first `width` principal directions of every class's features [N, C], scaled to the sphere.

        Raises ValueError for a width that isn't below C, or is above the number of examples of a class.
        """
        groups = memberships_of(labels, num_classes)
        most = min(features.shape[-1] - 1, int(groups.sum(0).min()))
        if not 0 < width <= most:
            raise ValueError(
                f"NearestSubspace expects a width of 1 to {most}, below {features.shape[-1]} features and no more than "
                f"the examples of the rarest class, got {width}"
            )
        return cls(attaining_subspaces(sphere(features), groups, width))

    def residuals(self, features: Tensor) -> Tensor:
        """Squared distances [N, K] of features [N, C], scaled to the sphere, from every class's subspace."""
        return _residuals(sphere(features), self.basis)

    def __call__(self, features: Tensor) -> Tensor:
        """The classes [N] of features [N, C]."""
        return self.residuals(features).argmin(-1)


@full_precision
def _residuals(Z: Tensor, basis: Tensor) -> Tensor:
    shares = torch.einsum("nc,kcp->nkp", Z, basis.to(Z)).square().sum(-1)
    return Z.square().sum(-1, keepdim=True) - shares
