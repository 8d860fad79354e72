"""How well soft maps and clusterings find an object: IoU and ARI, and how a map becomes a mask."""

# M maps, T levels, H x W pixels, K clusters

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tost.analysis.masks import Mask
from tost.analysis.pictures import enlarge
from tost.extras import require

LEVELS = 19  # thresholds, evenly between a map's least and most
ARI_PIXELS = 16384  # at most so many pixels of a picture are compared as pairs, evenly chosen


@dataclass(frozen=True)
class Rule:
    """How a soft map becomes a mask: steps of `map` above (or, inverted, at most) `level`."""

    map: int
    inverted: bool
    level: int

    def told(self) -> str:
        return f"{'below' if self.inverted else 'above'} {(self.level + 1) / (LEVELS + 1):.0%}"

    def mask(self, steps: Tensor) -> Tensor:
        """steps [M, H, W] -> [H, W] bool."""
        return steps[self.map] <= self.level if self.inverted else steps[self.map] > self.level


def in_steps(maps: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Soft maps over patches [M, N] as integers 0 to LEVELS over pixels [M, H, W].

    A map is scaled from the 1st to the 99th percentile of its patches, enlarged smoothly, cut into LEVELS + 1 steps.
    """
    maps = maps.float()
    low, high = torch.quantile(maps, torch.tensor([0.01, 0.99]), dim=1)
    level = (maps - low[:, None]) / (high - low).clamp_min(1e-12)[:, None]
    return (enlarge(level.t(), grid, size) * (LEVELS + 1)).clamp(0, LEVELS).to(torch.long)


def level_ious(steps: Tensor, mask: Mask) -> Tensor:
    """IoU with the object of every rule on steps [M, H, W]: [M, 2, LEVELS], map, (above, inverted), level."""
    bins = torch.arange(len(steps))[:, None] * (LEVELS + 1) + steps.flatten(1)
    objects = _histogram(bins, mask.object.flatten(), len(steps))
    valid = _histogram(bins, mask.valid.flatten(), len(steps))
    total, all_valid = objects.sum(1, keepdim=True), valid.sum(1, keepdim=True)
    below, chosen_below = objects.cumsum(1)[:, :LEVELS], valid.cumsum(1)[:, :LEVELS]
    both = torch.stack([total - below, below], 1)
    chosen = torch.stack([all_valid - chosen_below, chosen_below], 1)
    return both / (chosen + total[:, None] - both).clamp_min(1e-12)


def best_rule(ious: Tensor) -> Rule:
    """The rule with the best mean IoU over pictures, of [pictures, M, 2, LEVELS]."""
    mean = ious.mean(0)
    place = int(mean.flatten().argmax())
    maps, inverted, level = (int(i) for i in torch.unravel_index(torch.tensor(place), mean.shape))
    return Rule(maps, bool(inverted), level)


def iou(predicted: Tensor, mask: Mask) -> tuple[float, float]:
    """(IoU of the object, mean of that and of the background's), on valid pixels; an empty union counts 1."""
    seen, right = predicted & mask.valid, mask.object
    other, wrong = ~predicted & mask.valid, mask.valid & ~mask.object
    found = []
    for a, b in ((seen, right), (other, wrong)):
        union = int((a | b).sum())
        found.append(int((a & b).sum()) / union if union else 1.0)
    return found[0], sum(found) / 2


def ari(labels: Tensor, mask: Mask) -> float:
    """scikit-learn's adjusted Rand index of labels [H, W] against the mask's labels, on valid pixels."""
    score = require("sklearn.metrics", extra="training").adjusted_rand_score
    valid = mask.valid.flatten().nonzero()[:, 0]
    if len(valid) > ARI_PIXELS:
        valid = valid[torch.linspace(0, len(valid) - 1, ARI_PIXELS, dtype=torch.float64).round().long()]
    return float(score(mask.labels.flatten()[valid].numpy(), labels.flatten()[valid].numpy()))


class ClusterCounts:
    """How much of each cluster is the object, over pictures in which cluster k is the same thing."""

    def __init__(self, clusters: int) -> None:
        self.object, self.valid = torch.zeros(2, clusters, dtype=torch.float64)

    def add(self, labels: Tensor, mask: Mask) -> None:
        counted = torch.bincount(labels[mask.object], minlength=len(self.object))
        self.object = self.object + counted
        self.valid = self.valid + torch.bincount(labels[mask.valid], minlength=len(self.valid))

    def foreground(self) -> Tensor:
        """[clusters] bool: those whose union has the best IoU with the object, pixels of all pictures pooled.

        The best union takes clusters in the order of their share of object (adding one above the IoU raises it).
        """
        order = (self.object / self.valid.clamp_min(1)).argsort(descending=True, stable=True)
        both, chosen = self.object[order].cumsum(0), self.valid[order].cumsum(0)
        count = int((both / (chosen + self.object.sum() - both).clamp_min(1e-12)).argmax()) + 1
        return torch.zeros(len(order), dtype=torch.bool).index_fill(0, order[:count], True)


def matched(labels: Tensor, mask: Mask) -> Tensor:
    """[H, W] bool: the union of clusters that fits this mask best, which only who knows the mask can choose."""
    counts = ClusterCounts(int(labels.max()) + 1)
    counts.add(labels, mask)
    return counts.foreground()[labels]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95% of the mean over pictures."""
    found = torch.tensor(values, dtype=torch.float64)
    half = 1.96 * float(found.std()) / len(found) ** 0.5 if len(found) > 1 else 0.0
    mean = float(found.mean())
    return mean, mean - half, mean + half


def _histogram(bins: Tensor, chosen: Tensor, maps: int) -> Tensor:
    """[M, LEVELS + 1] counts of `bins` [M, pixels] at the pixels `chosen`."""
    return torch.bincount(bins[:, chosen].flatten(), minlength=maps * (LEVELS + 1)).view(maps, -1).double()
