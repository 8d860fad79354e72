"""The section of scores: memberships, attention and k-means against masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tost.analysis.masks import Labelled, read_masks
from tost.analysis.progress import bar
from tost.analysis.results import Figure, Section, Table
from tost.analysis.score_figure import Segmented, masks_figure, score_figure
from tost.analysis.scores import interval
from tost.analysis.segmentation import Scores, score_model
from tost.analysis.subject import VisionSubject, open_baseline
from tost.analysis.trivial import trivial

COLUMNS = {"iou": "IoU", "mean_iou": "mean IoU", "ari": "ARI", "matched_iou": "IoU, matched"}


@dataclass
class Plan:
    """What is scored: the run, the untrained model, perhaps a baseline, on photographs with masks."""

    subject: VisionSubject
    labelled: Labelled
    models: dict[str, VisionSubject]
    size: int | None


def prepare_scores(
    subject: VisionSubject,
    masks: str | Path,
    labels: tuple[Sequence[int], Sequence[int]],
    baseline: str | Path | None,
    size: int | None,
) -> Plan:
    """Read what is needed; every error about masks and baseline is raised here.  labels: (ignore, foreground)."""
    labelled = read_masks(subject.photos[0].parent, masks, *labels)
    models = {"trained": subject, "untrained": replace(subject, model=subject.untrained())}
    if baseline is not None:
        models["baseline"] = open_baseline(baseline, subject.device)
    return Plan(subject, labelled, models, size)


def score_section(plan: Plan) -> Section:
    """Score every model on the half that chose nothing."""
    choosing, scored = plan.labelled.halves()
    total = len(plan.models) * (2 * len(choosing) + len(scored)) + len(plan.labelled.pairs)
    found: list[Scores] = []
    shown: list[dict[str, Any]] = []
    with bar("scores", total) as moving:
        for who, subject in plan.models.items():
            scores, masks = score_model(subject, who, plan.labelled, plan.size, moving)
            found += scores
            shown = shown or masks
        found += trivial(plan.labelled, plan.subject, plan.size, moving)
    rows = score_table(found)
    return Section("Does it segment?", _text(plan), [_bars(rows), _table(rows), _choices(rows), _masks(plan, shown)])


def score_table(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    """One row per model and method: mean, low and high (95%) of every measure, None where there is none."""
    rows = []
    for one in scores:
        row: dict[str, Any] = {"model": one.who, "method": one.method, "chosen": one.chosen, "pictures": len(one.ari)}
        for key in COLUMNS:
            values = getattr(one, key)
            row |= dict(zip((key, f"{key}_low", f"{key}_high"), interval(values) if values else (None, None, None)))
        rows.append(row)
    return rows


def _text(plan: Plan) -> str:
    choosing, scored = plan.labelled.halves()
    labelled = plan.labelled
    return (
        f"{len(labelled.pairs)} photographs with masks; the object is label {_listed(labelled.foreground)} of "
        f"{_listed(labelled.labels)}. Layer, head, level and the clusters that are object were chosen on every second "
        f"photograph ({len(choosing)}); the scores are of the other {len(scored)}, with 95% intervals. "
        "IoU is of the object; mean IoU averages it with the background's. ARI compares a labelling with the mask, "
        "whatever the labels are called. Matched: the union of clusters that fits each mask best, chosen by knowing "
        "the mask, an upper limit. “Everything” and “the middle” look at no picture at all."
    )


def _listed(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels[:10])) + (", ..." if len(labels) > 10 else "")


def _bars(rows: list[dict[str, Any]]) -> Figure:
    caption = "Means over the scored photographs; the line on each bar is the 95% interval."
    return Figure("scores", score_figure(rows), caption)


def _table(rows: list[dict[str, Any]]) -> Table:
    shown = [
        [f"{r['model']}: {r['method']}", *("" if r[key] is None else f"{r[key]:.3f}" for key in COLUMNS)] for r in rows
    ]
    ours = [row[0] for row, r in zip(shown, rows) if r["model"] == "trained" and "memberships" in r["method"]]
    return Table("score_table", rows, ["", *COLUMNS.values()], shown, ours)


def _choices(rows: list[dict[str, Any]]) -> Table:
    """What the choosing half chose for each method."""
    chosen = [{key: r[key] for key in ("model", "method", "chosen")} for r in rows if r["chosen"]]
    shown = [[f"{r['model']}: {r['method']}", r["chosen"]] for r in chosen]
    return Table("score_choices", chosen, ["", "chosen on the other half"], shown)


def _masks(plan: Plan, shown: Sequence[dict[str, Any]]) -> Figure:
    """The first scored photographs with the masks of the trained model's methods."""
    pictures = []
    for (photo, path), masks in zip(plan.labelled.halves()[1], shown):
        example = plan.subject.photo(photo, plan.size)
        mask = plan.labelled.read(path, (example.input.shape[-2], example.input.shape[-1]))
        named = {"mask": mask.object, **{name.replace(", ", ",\n"): one for name, one in masks.items()}}
        pictures.append(Segmented(photo.stem, example.picture, mask.valid, named))
    caption = "Photographs of the scored half, not picked: what the mask, and what each method, takes for the object."
    return Figure("masks", masks_figure(pictures), caption)
