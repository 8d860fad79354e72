"""`tost.analysis.analyze`: a finished run in, figures and tables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tost.analysis.recorders import has_memberships, mixing_blocks
from tost.analysis.results import Analysis, Section
from tost.analysis.subject import Subject, TextSubject, VisionSubject, open_subject

LEAD = (
    "A token statistics transformer is a white box: its attention is derived from an objective, and what every layer "
    "does to its tokens can be measured. This page does so for one trained model."
)


def analyze(
    run: str | Path,
    *,
    samples: int = 500,
    data: Mapping[str, Any] | None = None,
    images: str | Path | None = None,
    masks: str | Path | None = None,
    ignore: Sequence[int] = (),
    foreground: Sequence[int] = (),
    baseline: str | Path | None = None,
    size: int | None = None,
    length: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> Analysis:
    """Every figure of docs/analysis.md for a finished run, with the numbers behind them.

    run: its folder, or the name of a shipped one.  samples: of every set at most, always the same ones.
    data: settings of the recipe's data to replace, {"path": ...}.  images: a folder of photographs to draw maps over.
    masks: a folder of masks named like them, to score against; ignore, foreground: labels in them.
    baseline: a second run (a vision run with another mixer), scored beside it.  size: of the photographs' working area.
    length: text: tokens of the long sequences.
    Returns an Analysis: `.figures` and `.tables` by name, `.report()`, `.write(folder)`.
    Raises ValueError or OSError in one line: no finished run, weights with NaN, images, masks or data that don't fit.
    """
    check_numbers(samples=samples, batch_size=batch_size, size=size)
    check_scores(images, masks, [*ignore, *foreground, *([baseline] if baseline else [])])
    subject = open_subject(run, data, images, device)
    if isinstance(subject, TextSubject):
        from tost.analysis.text import text_sections

        sections = text_sections(subject, samples, batch_size, length)
    else:
        sections = _vision(subject, samples, batch_size, size, length, masks, (ignore, foreground), baseline)
    _note_memberships(subject)
    footer = (
        f"Written {datetime.now():%Y-%m-%d %H:%M} by tost analyze. The numbers behind every figure lie beside this "
        "page as CSV. The method: Token Statistics Transformer, ICLR 2025, arXiv 2412.17810."
    )
    return Analysis(
        f"Inside {subject.name}", f"{LEAD} {_told(subject)}", _tiles(subject, sections), sections, subject.notes, footer
    )


def _vision(
    subject: VisionSubject,
    samples: int,
    batch_size: int,
    size: int | None,
    length: int | None,
    masks: str | Path | None,
    labels: tuple[Sequence[int], Sequence[int]],
    baseline: str | Path | None,
) -> list[Section]:
    """The sections of a vision run; what can go wrong with masks goes wrong first."""
    from tost.analysis.score_section import prepare_scores, score_section
    from tost.analysis.vision import vision_sections

    if length is not None:
        raise ValueError(f"{subject.run} is a vision run; --length is for language models")
    plan = prepare_scores(subject, masks, labels, baseline, size) if masks is not None else None
    sections = vision_sections(subject, samples, batch_size, size)
    return [*sections, score_section(plan)] if plan is not None else sections


def _note_memberships(subject: Subject) -> None:
    """Say why most figures are missing where they are."""
    if not has_memberships(subject.model):
        mixer = type(next(iter(mixing_blocks(subject.model).values())).mixer).__name__
        subject.notes.append(
            f"Its mixer, {mixer}, has no memberships: no rates, membership maps, subspaces or effective heads."
        )


def check_scores(images: Any, masks: Any, more: Sequence[Any]) -> None:
    """ValueError for what belongs to scores without what they are made from."""
    if (masks is None and more) or (masks is not None and images is None):
        raise ValueError("scores need --images DIR and --masks DIR; --ignore, --foreground and --baseline go with them")


def check_numbers(**given: int | None) -> None:
    """ValueError for a number that is not positive."""
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} is a positive number, got {value}")


def _told(subject: Subject) -> str:
    """What the model is."""
    config, recipe = subject.model.config, subject.recipe
    parameters = sum(p.numel() for p in subject.model.parameters())
    name = recipe.model.name if isinstance(subject, VisionSubject) else recipe.model.preset
    dim = getattr(config, "dim", None) or config.hidden_size
    layers = len(mixing_blocks(subject.model))
    size = f"{layers} blocks of {subject.heads} heads and {dim} features"
    return f"{subject.name}: {name}, {parameters / 1e6:.2g} million parameters, {size}."


def _tiles(subject: Subject, sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The analysis at a glance."""
    rows = Analysis("", "", [], list(sections)).tables
    tiles = []
    last = list(subject.sets)[-1]
    if "rates" in rows:
        mine = [r for r in rows["rates"] if r["set"] == last]
        fallen = sum(r["after_mean"] < r["before_mean"] for r in mine)
        tiles.append((f"{fallen} of {len(mine)}", f"blocks lower the compression rate ({last})"))
        heads = [r for r in rows["heads"] if r["set"] == last]
        mean = sum(r["effective_mean"] for r in heads) / len(heads)
        tiles.append((f"{mean:.2f} of {heads[0]['heads']}", f"heads share a token, mean over blocks ({last})"))
        pairs = rows["coherence"]
        ratio = sum(r["between"] for r in pairs) / sum(r["random"] for r in pairs)
        tiles.append((f"{ratio:.2f}x", "coherence between heads, against random directions"))
    ranks = {r["layer"]: r["effective_rank"] for r in rows["spectrum"] if r["set"] == last}
    tiles.append((f"{ranks[max(ranks)]:.0f}", f"effective rank of the last block's features ({last})"))
    return tiles
