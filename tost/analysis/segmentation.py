"""Photographs with masks through a model: half of them choose layer, head and level, the other half is scored."""

# N tokens = rows x columns of patches, C features, M maps, L layers, H heads

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tost.analysis.cluster_figure import kmeans
from tost.analysis.masks import Labelled, Mask
from tost.analysis.pictures import as_map
from tost.analysis.recorders import Sight, has_class_attention, run, watching
from tost.analysis.scores import ClusterCounts, Rule, ari, best_rule, in_steps, iou, level_ious, matched
from tost.analysis.subject import Example, VisionSubject
from tost.extras import require
from tost.rates import record_class_attention

METHODS = (
    "memberships, one head",
    "memberships, strongest head",
    "[CLS] attention",
    "k-means over all pictures",
    "k-means of each picture",
)
POOLED = 4096  # tokens of the choosing half on which k-means over all pictures is fitted
Pairs = Sequence[tuple[Path, Path]]


@dataclass
class View:
    """What a model says of one photograph.  soft: method -> [M, N].  features: [N, C] by layer.  heads: [L, N]."""

    example: Example
    mask: Mask
    soft: dict[str, Tensor]
    features: list[Tensor]
    heads: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.labels.shape[0], self.mask.labels.shape[1]

    def pixels(self, labels: Tensor) -> Tensor:
        """Labels of patches [N] as a map of the mask's size."""
        return as_map(labels, self.example.grid, self.size)


@dataclass
class Scores:
    """Of one method on every scored photograph.  chosen: the layer, head and level that the other half chose."""

    who: str
    method: str
    chosen: str
    iou: list[float] = field(default_factory=list)
    mean_iou: list[float] = field(default_factory=list)
    ari: list[float] = field(default_factory=list)
    matched_iou: list[float] = field(default_factory=list)

    def add(self, predicted: Tensor | None, labels: Tensor, mask: Mask) -> None:
        """predicted: the object's mask, None where a method can't tell it.  labels: its clustering, both [H, W]."""
        self.ari.append(ari(labels, mask))
        if predicted is not None:
            found = iou(predicted, mask)
            self.iou.append(found[0])
            self.mean_iou.append(found[1])
        if labels.dtype != torch.bool:
            self.matched_iou.append(iou(matched(labels, mask), mask)[0])


Step = Callable[[View], tuple[Tensor | None, Tensor]]  # a photograph -> (object's mask, labels)


def score_model(
    subject: VisionSubject, who: str, labelled: Labelled, size: int | None, bar: Any
) -> tuple[list[Scores], list[dict[str, Tensor]]]:
    """Every method of one model, and the masks that they give for a few scored photographs.

    bar: of tqdm, moved on by one for each photograph and pass (two over the choosing half, one over the other).
    """
    choosing, scored = labelled.halves()
    steps = choose(subject, labelled, choosing, size, bar)
    scores = [Scores(who, method, chosen) for method, (chosen, _) in steps.items()]
    shown: list[dict[str, Tensor]] = []
    for number, view in enumerate(views(subject, labelled, scored, size, bar)):
        masks = {}
        for one, (_, step) in zip(scores, steps.values()):
            predicted, labels = step(view)
            one.add(predicted, labels, view.mask)
            if predicted is not None:
                masks[one.method] = predicted
        if number < 4:
            shown.append(masks)
    return scores, shown


def views(subject: VisionSubject, labelled: Labelled, pairs: Pairs, size: int | None, bar: Any) -> Iterator[View]:
    """The photographs of `pairs` as the model sees them, one at a time."""
    for photo, mask in pairs:
        yield look(subject, labelled, photo, mask, size)
        bar.update()


def look(subject: VisionSubject, labelled: Labelled, photo: Path, mask: Path, size: int | None) -> View:
    """One photograph through the model."""
    example = subject.photo(photo, size)
    sights: list[Sight] = []
    with watching(subject.model, sights.append):
        if has_class_attention(subject.model):
            attention = list(record_class_attention(subject.model, example.input).values())
        else:
            attention = []
            run(subject.model, example.input)
    soft, heads = {}, None
    shares = [sight.membership[0].cpu() for sight in sights if sight.membership is not None]
    if shares:
        soft["memberships, one head"] = torch.cat(shares, 1).t()
        heads = torch.stack([pi.argmax(1) for pi in shares])
    if attention:
        soft["[CLS] attention"] = torch.cat([torch.cat([maps[0], maps[0].mean(0, keepdim=True)]) for maps in attention])
    read = labelled.read(mask, (example.input.shape[-2], example.input.shape[-1]))
    return View(example, read, soft, [sight.scored[0].cpu() for sight in sights], heads)


def choose(
    subject: VisionSubject, labelled: Labelled, pairs: Pairs, size: int | None, bar: Any
) -> dict[str, tuple[str, Step]]:
    """Method -> (what was chosen on these photographs, how it makes a mask and labels)."""
    clusters = subject.heads
    ious: dict[str, list[Tensor]] = {}
    pooled: list[list[Tensor]] = []
    heads = Clusterings(clusters)
    each = -(-POOLED // len(pairs))
    for view in views(subject, labelled, pairs, size, bar):
        for method, maps in view.soft.items():
            steps = in_steps(maps, view.example.grid, view.size)
            ious.setdefault(method, []).append(level_ious(steps, view.mask))
        if view.heads is not None:
            heads.add([view.pixels(labels) for labels in view.heads], view.mask)
        pooled.append([features[_evenly(len(features), each)] for features in view.features])
    found: dict[str, tuple[str, Step]] = {}
    for method, per_picture in ious.items():
        rule = best_rule(torch.stack(per_picture))
        found[method] = told_rule(rule, method, clusters), soft_step(method, rule)
    if heads.counts:
        found["memberships, strongest head"] = heads.chosen(lambda view, layer: view.heads[layer])  # type: ignore[index]
    models = [_fit(torch.cat(layer), clusters) for layer in zip(*pooled)]
    means = Clusterings(clusters)
    for view in views(subject, labelled, pairs, size, bar):
        means.add([view.pixels(model(features)) for model, features in zip(models, view.features)], view.mask)
    found["k-means over all pictures"] = means.chosen(lambda view, layer: models[layer](view.features[layer]))
    layer = means.best()
    told = f"block {layer + 1}, as over all pictures"
    found["k-means of each picture"] = told, lambda view: (None, view.pixels(kmeans(view.features[layer], clusters)))
    return {method: found[method] for method in METHODS if method in found}


class Clusterings:
    """A clustering by layer over the choosing half: its ARI, and how much of each cluster is the object."""

    def __init__(self, clusters: int) -> None:
        self.clusters = clusters
        self.counts: list[ClusterCounts] = []
        self.aris: list[list[float]] = []

    def add(self, labels: Sequence[Tensor], mask: Mask) -> None:
        """labels: [H, W] of every layer."""
        if not self.counts:
            self.counts, self.aris = [ClusterCounts(self.clusters) for _ in labels], [[] for _ in labels]
        for layer, one in enumerate(labels):
            self.counts[layer].add(one, mask)
            self.aris[layer].append(ari(one, mask))

    def best(self) -> int:
        """The layer of the best mean ARI."""
        means = [sum(values) / len(values) for values in self.aris]
        return means.index(max(means))

    def chosen(self, labels_of: Callable[[View, int], Tensor]) -> tuple[str, Step]:
        """(what was chosen, the step).  labels_of: (photograph, layer) -> labels of its patches."""
        layer = self.best()
        foreground = self.counts[layer].foreground()
        told = f"block {layer + 1}, clusters {', '.join(str(int(i) + 1) for i in foreground.nonzero()[:, 0])}"

        def step(view: View) -> tuple[Tensor, Tensor]:
            labels = view.pixels(labels_of(view, layer))
            return foreground[labels], labels

        return told, step


def soft_step(method: str, rule: Rule) -> Step:
    def step(view: View) -> tuple[Tensor, Tensor]:
        predicted = rule.mask(in_steps(view.soft[method], view.example.grid, view.size))
        return predicted, predicted

    return step


def told_rule(rule: Rule, method: str, heads: int) -> str:
    """A rule in words."""
    per_layer = heads + 1 if method.startswith("[CLS]") else heads
    layer, head = divmod(rule.map, per_layer)
    who = f"head {head + 1}" if head < heads else "mean of heads"
    place = f"{'class block' if method.startswith('[CLS]') else 'block'} {layer + 1}"
    return f"{place}, {who}, {rule.told()}"


def _fit(features: Tensor, clusters: int) -> Callable[[Tensor], Tensor]:
    """scikit-learn's k-means on tokens [T, C] of many pictures: a function from features [N, C] to labels [N]."""
    KMeans = require("sklearn.cluster", extra="training").KMeans
    model = KMeans(min(clusters, len(torch.unique(features, dim=0))), n_init=4, random_state=0).fit(features.numpy())
    return lambda tokens: torch.from_numpy(model.predict(tokens.numpy()).astype("int64"))


def _evenly(total: int, count: int) -> Tensor:
    """At most `count` places among `total`, evenly spread."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()
