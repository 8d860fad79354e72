"""The sections of a language run's analysis."""

# B rows, N tokens, H heads

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.analysis.gather import membership_sums, overview
from tost.analysis.heads_figure import dilution_figure
from tost.analysis.painting import painted_text, token_texts
from tost.analysis.progress import progress
from tost.analysis.recorders import has_memberships
from tost.analysis.results import Figure, Section, Table
from tost.analysis.sections import common_sections
from tost.analysis.subject import TextSubject
from tost.analysis.vision import spread_layers
from tost.rates import record_memberships

LONG, LONG_ROWS = 4096, 16  # tokens of a long sequence where the model sets no limit, and how many are averaged
PAINTED = 240  # tokens


def text_sections(subject: TextSubject, samples: int, batch_size: int, length: int | None) -> list[Section]:
    """Rates, painted text, heads and their dilution, subspaces, features, parameters."""
    limit = longest(subject, length)
    found = overview(subject, samples, batch_size)
    sections = common_sections(subject, found)
    if not has_memberships(subject.model):
        return list(sections.values())
    sections["heads"].parts.append(_positions(subject, limit))
    return [sections.pop("rates"), _painted(subject), *sections.values()]


def _painted(subject: TextSubject) -> Section:
    place = subject.chosen("held-out", 1)[0]
    row = subject.sets["held-out"][place]
    ids = row["ids"][: min(row["length"], PAINTED)]
    found = {name: pi[0] for name, pi in record_memberships(subject.model, subject.arguments(ids[None])).items()}
    layers = {told: found[name] for told, name in spread_layers(list(found), 12).items()}
    tokens = token_texts(subject.tokenizer, ids.tolist())
    text = (
        "A piece of held-out text. Every token stands on the colour of its strongest head; the stronger the colour, "
        "the larger that head's share, from the least to the most of the layer. Choose a layer:"
    )
    rows = [
        {"layer": layer, "position": n + 1, "token": tokens[n], "head": head + 1, "share": float(pi[n, head])}
        for layer, pi in layers.items()
        for n in range(len(tokens))
        for head in range(pi.shape[1])
    ]
    counts = [[layer, *_counts(pi)] for layer, pi in layers.items()]
    head = ["tokens whose strongest is", *(f"head {i + 1}" for i in range(len(counts[0]) - 1))]
    return Section("Memberships by token", text, [painted_text(tokens, layers), Table("tokens", rows, head, counts)])


def _counts(pi: Tensor) -> list[str]:
    return [str(int(count)) for count in torch.bincount(pi.argmax(1), minlength=pi.shape[1])]


def _positions(subject: TextSubject, limit: int) -> Figure:
    """Effective heads over the position in sequences of up to `limit` tokens of held-out text."""
    ids = subject.long_rows("held-out", limit, LONG_ROWS)
    sums: dict[str, Tensor] = {}
    for row in progress(ids, "long sequences"):
        for layer, values in membership_sums(subject.model, subject.arguments(row[None])).items():
            sums[layer] = sums.get(layer, torch.zeros(())) + values[0] / len(ids)
    rows: list[dict[str, Any]] = []
    for number, (module, values) in enumerate(sums.items(), 1):
        for first, last in bins(len(values)):
            effective, distance = values[first - 1 : last].mean(0).tolist()
            row = {"layer": number, "module": module, "position": (first * last) ** 0.5, "first": first, "last": last}
            rows.append({**row, "heads": subject.heads, "effective": effective, "from_uniform": distance})
    bounded = ", as far as its learned positions go" if subject.model.config.position_mode == "learned" else ""
    caption = (
        f"Means over {len(ids)} held-out sequences of {ids.shape[1]:,} tokens{bounded}, in ranges of positions that "
        "double in two steps. Statistics that only add up make shares of the sum shrink as 1 / t, so memberships draw "
        "near equal shares (the dilution); heads that forget do not. Left: effective heads. Right: log H minus entropy."
    )
    return Figure("dilution", dilution_figure(rows, "position"), caption)


def longest(subject: TextSubject, length: int | None) -> int:
    """Tokens of a long sequence: `length`, else what the model's positions allow, else LONG.

    Raises ValueError for a length below 2 or beyond learned positions.
    """
    config = subject.model.config
    most = config.max_position_embeddings if config.position_mode == "learned" else None
    if length is not None and (length < 2 or (most is not None and length > most)):
        bound = f"2 to {most} tokens, the model's learned positions" if most else "2 tokens at least"
        raise ValueError(f"--length is {bound}, got {length}")
    return length or most or LONG


def bins(count: int) -> list[tuple[int, int]]:
    """Ranges (first, last) of positions 1 to count: 1, 2, then twice as far in two steps each, the last one longer."""
    edges = sorted({round(2 ** (i / 2)) for i in range(64) if 1.2 * 2 ** (i / 2) <= count} | {1, count + 1})
    return [(first, after - 1) for first, after in zip(edges, edges[1:])]
