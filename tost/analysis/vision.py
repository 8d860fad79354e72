"""The sections of a vision run's analysis."""

# B batch, N tokens, H heads

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tost.analysis.attention_figure import Attended, attention_figure
from tost.analysis.cluster_figure import Clustered, cluster_figure, kmeans
from tost.analysis.gather import membership_sums, overview
from tost.analysis.heads_figure import dilution_figure
from tost.analysis.membership_figure import membership_figure
from tost.analysis.progress import progress
from tost.analysis.recorders import Sight, has_class_attention, has_memberships, run, watching
from tost.analysis.results import Figure, Section
from tost.analysis.sections import common_sections
from tost.analysis.subject import Example, VisionSubject
from tost.rates import record_class_attention

SCALES = (1.0, 2**0.5, 2.0, 2**1.5, 4.0)  # of a picture's side: 1, 2, 4, 8, 16 times the tokens
DILUTED = 16  # pictures whose memberships are followed over the number of tokens
MOST_TOKENS = 16384


def vision_sections(subject: VisionSubject, samples: int, batch_size: int, size: int | None) -> list[Section]:
    """Everything but the scores."""
    found = overview(subject, samples, batch_size)
    examples = pick_examples(subject, size)
    seen = [look(subject.model, example) for example in progress(examples, "pictures")]
    sections = []
    if has_memberships(subject.model):
        sections.append(_maps(examples, seen))
    sections.append(_clusters(subject, examples, seen))
    if has_class_attention(subject.model):
        sections.append(_attention(subject, examples))
    shared = common_sections(subject, found)
    if has_memberships(subject.model):
        shared["heads"].parts.append(_dilution(subject))
    return [shared.pop("rates"), *sections, *shared.values()] if "rates" in shared else [*sections, *shared.values()]


def pick_examples(subject: VisionSubject, size: int | None = None, count: int = 4) -> list[Example]:
    """Photographs of one's own if there are any, else as many of every set, of different classes where there are."""
    if subject.photos:
        places = spread_places(len(subject.photos), count)
        return [subject.photo(subject.photos[i], size) for i in places]
    examples = []
    for name, images in subject.sets.items():
        places, taken = subject.chosen(name, 64), set()
        fresh: list[int] = []
        for place in places:
            label = int(images.labels[place])
            if label not in taken and len(fresh) < count // len(subject.sets):
                taken.add(label)
                fresh.append(place)
        examples += [subject.example(name, place) for place in fresh]
    return examples


def spread_places(total: int, count: int) -> list[int]:
    """`count` of `total` places, spread evenly."""
    count = min(count, total)
    return sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})


def look(model: Any, example: Example) -> dict[str, Sight]:
    """Layer -> what its block saw of one picture."""
    found: dict[str, Sight] = {}
    with watching(model, lambda sight: found.__setitem__(sight.layer, sight)):
        run(model, example.input)
    return found


def spread_layers(names: list[str], count: int) -> dict[str, str]:
    """At most `count` layers from first to last: "block i" (from 1) -> module name."""
    return {f"block {i + 1}": names[i] for i in spread_places(len(names), count)}


def _maps(examples: list[Example], seen: list[dict[str, Sight]]) -> Section:
    """Membership maps of one picture of each set."""
    first = {example.title.partition(":")[0]: i for i, example in reversed(list(enumerate(examples)))}
    parts: list[Any] = []
    for number, i in enumerate(sorted(first.values())[:2], 1):
        example = examples[i]
        layers = spread_layers(list(seen[i]), 6)
        shares = {told: seen[i][name].membership[0].cpu() for told, name in layers.items()}  # type: ignore[index]
        drawing = membership_figure(example.picture, shares, example.grid, smooth=_smooth(example))
        caption = (
            f"{example.title}. Left: which head takes most of each patch. Right: the share of every head, from its "
            "least (black) to its most (white); the numbers above a map say how little or much that is."
        )
        parts.append(Figure(f"memberships_{number}", drawing, caption))
    text = (
        "A head is a group: every patch is shared out among the heads, and its shares add up to one. The maps show "
        "these memberships, which nobody supervised, over the picture."
    )
    return Section("Memberships over the picture", text, parts)


def _clusters(subject: VisionSubject, examples: list[Example], seen: list[dict[str, Sight]]) -> Section:
    pictures = []
    for example, sights in zip(examples, seen):
        layers = spread_layers(list(sights), 3)
        labels = {told: _labels(sights[name], subject.heads) for told, name in layers.items()}
        pictures.append(Clustered(example.title, example.picture, example.grid, labels))
    text = (
        "k-means on the tokens of each picture, as the block's mixer sees them, with as many clusters as heads: it "
        "starts anew on every picture."
    )
    if has_memberships(subject.model):
        text = f"Giving every patch to its strongest head makes a clustering, the same heads in all. Beside it {text}"
    caption = "Clusterings of the patches. A head keeps its colour in all pictures; those of k-means are arbitrary."
    return Section("Clusterings", text, [Figure("clusters", cluster_figure(pictures), caption)])


def _labels(sight: Sight, clusters: int) -> dict[str, Tensor]:
    found = {} if sight.membership is None else {"strongest head": sight.membership[0].argmax(-1).cpu()}
    return found | {"k-means": kmeans(sight.scored[0].cpu(), clusters)}


def _attention(subject: VisionSubject, examples: list[Example]) -> Section:
    pictures = [
        Attended(example.title, example.picture, example.grid, attention)
        for example in examples[:: 1 if len(examples) < 3 else 2]
        for attention in [_class_attention(subject, example)]
    ]
    drawing = attention_figure(pictures, smooth=all(_smooth(example) for example in examples))
    text = (
        "After the blocks one [CLS] token gathers what the classifier needs, by softmax attention over the patches. "
        "The maps show where its heads look; memberships and attention are different things, and heads of the one have "
        "nothing to do with heads of the other."
    )
    caption = "Attention of [CLS] by class-attention block and head, each map from its least to its most."
    return Section("Where [CLS] looks", text, [Figure("class_attention", drawing, caption)])


def _class_attention(subject: VisionSubject, example: Example) -> dict[str, Tensor]:
    """Class-attention block -> [H, N]."""
    found = record_class_attention(subject.model, example.input)
    return {f"class block {number}": maps[0] for number, maps in enumerate(found.values(), 1)}


def _dilution(subject: VisionSubject) -> Figure:
    """The same pictures at growing resolution."""
    name = list(subject.sets)[-1]
    batch = torch.cat(list(subject.batches(name, DILUTED, DILUTED)))
    rows: list[dict[str, Any]] = []
    for scale in progress(SCALES, "growing pictures"):
        sides = [max(1, round(side * scale / subject.patch)) * subject.patch for side in batch.shape[-2:]]
        tokens = sides[0] * sides[1] // subject.patch**2
        if tokens > MOST_TOKENS or tokens in {row["tokens"] for row in rows}:
            continue
        larger = F.interpolate(batch, sides, mode="bicubic", align_corners=False) if scale > 1 else batch
        sums: dict[str, list[Tensor]] = {}
        for one in larger.split(max(1, MOST_TOKENS // tokens)):
            for layer, values in membership_sums(subject.model, one).items():
                sums.setdefault(layer, []).append(values.mean((0, 1)) * len(one))
        for number, (module, parts) in enumerate(sums.items(), 1):
            effective, distance = (torch.stack(parts).sum(0) / len(larger)).tolist()
            row = {"layer": number, "module": module, "tokens": tokens, "heads": subject.heads, "pictures": len(larger)}
            rows.append({**row, "effective": effective, "from_uniform": distance})
    caption = (
        f"The same {len(batch)} pictures ({name}), enlarged: more tokens, nothing new to see. Memberships depend on "
        "token energies as shares of the sum over all tokens, which shrink as 1 / N, so with a fixed temperature they "
        "draw near equal shares. Left: effective heads. Right: log H minus the entropy; a straight line of slope -2 is "
        "that law."
    )
    return Figure("dilution", dilution_figure(rows, "tokens"), caption)


def _smooth(example: Example) -> bool:
    return min(example.input.shape[-2:]) >= 64
