"""Sums over a data set, from which the figures come: what is kept does not grow with the number of samples."""

# B batch, N tokens, H heads, P features per head, C = H*P, L layers

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tost.analysis.recorders import Sight
from tost.rates import LogRate, coding_rate, compression_rate, spectral_rate


class Spread:
    """Mean and standard deviation of numbers that come in batches."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        values = values.double()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    @property
    def sd(self) -> float:
        return max(self.squares / max(self.count, 1) - self.mean**2, 0.0) ** 0.5


class Covariance:
    """The covariance of features [..., C] that come in batches, in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.gram = 0, torch.zeros(()), torch.zeros(())

    def add(self, features: Tensor) -> None:
        rows = features.flatten(0, -2)
        self.count += len(rows)
        wide = rows.double()
        self.total = self.total + wide.sum(0).cpu()
        self.gram = self.gram + (wide.mT @ wide).cpu()

    def singular_values(self) -> Tensor:
        """[C] of the centred features divided by sqrt(count), the largest first."""
        mean = self.total / max(self.count, 1)
        spectrum = torch.linalg.eigvalsh(self.gram / max(self.count, 1) - torch.outer(mean, mean))
        return spectrum.clamp_min(0).sqrt().flip(0)


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of singular values [C] that are scaled to sum to one (Roy and Vetterli, 2007)."""
    share = values / values.sum().clamp_min(1e-300)
    return float(torch.special.entr(share).sum().exp())


def entropy(membership: Tensor) -> Tensor:
    """[..., H] -> [...], nats."""
    return torch.special.entr(membership.double()).sum(-1)


def exact_rate(w: Tensor, membership: Tensor) -> Tensor:
    """The exact counterpart of tost.rates.projected_rate, which by Theorem 1 it never exceeds.

        1/2 sum_k (n_k / n) logdet(I + sum_n pi_nk w_nk w_nk^T / n_k)

    w: [B, N, H, P].  membership: [B, N, H].  Returns [B].
    """
    w, pi = w.double(), membership.double()
    mass = pi.sum(1)
    moments = torch.einsum("bnkp,bnkq->bkpq", pi.unsqueeze(-1) * w, w) / mass.clamp_min(1e-12)[..., None, None]
    return (mass / w.shape[1] * spectral_rate(moments, LogRate(1.0))).sum(-1) / 2


@dataclass
class LayerSums:
    """What one layer has shown so far.

    exact: of every sample, `exact_rate` of the block's output.  coding, compression: of the first samples, R and R_c of
    its tokens as the mixer would see them.
    """

    entropy: Spread = field(default_factory=Spread)
    effective: Spread = field(default_factory=Spread)
    heads: int = 0
    features: Covariance = field(default_factory=Covariance)
    exact: list[Tensor] = field(default_factory=list)
    coding: list[Tensor] = field(default_factory=list)
    compression: list[Tensor] = field(default_factory=list)


class Gathered:
    """Everything that is summed over one set of samples; `see` is what `watching` calls.

    depth: blocks of the model.  R and R_c of whole tokens, which are dear, are computed of `affordable` samples.
    """

    def __init__(self, depth: int, eps: float = 0.5) -> None:
        self.layers: dict[str, LayerSums] = {}
        self.depth, self.eps = depth, eps

    @torch.no_grad()
    def see(self, sight: Sight) -> None:
        sums = self.layers.setdefault(sight.layer, LayerSums())
        sums.features.add(sight.output)
        pi = sight.membership
        if pi is None:
            return
        sums.heads = pi.shape[-1]
        nats = entropy(pi)
        sums.entropy.add(nats)
        sums.effective.add(nats.exp())
        sums.exact.append(exact_rate(sight.projected(sight.output), pi).cpu())
        N, C = sight.scored.shape[1:]
        left = affordable(sums.heads, N, C, self.depth) - sum(map(len, sums.coding))
        if left > 0:
            tokens = sight.normalised(sight.output[:left])
            sums.coding.append(coding_rate(tokens, self.eps).cpu())
            sums.compression.append(compression_rate(tokens, pi[:left], self.eps).cpu())


def affordable(heads: int, tokens: int, features: int, layers: int, budget: float = 3e11) -> int:
    """How many samples' R_c fit in `budget` multiplications, 2 to 64."""
    return int(min(64, max(2, budget / (heads * tokens * features * min(tokens, features) * layers))))
