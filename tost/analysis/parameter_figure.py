"""Temperatures and LayerScale while training went on."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tost.analysis.panels import layer_lines
from tost.analysis.style import Drawing, Theme

COLUMNS = ["step", "parameter", "index", "value"]
KINDS = {
    "temperature": (re.compile(r"blocks\.(\d+)\.mixer\.temperature$"), "temperature"),
    "gamma1": (re.compile(r"(?<!cls_)blocks\.(\d+)\.gamma1$"), "LayerScale of attention, mean |gamma|"),
    "gamma2": (re.compile(r"(?<!cls_)blocks\.(\d+)\.gamma2$"), "LayerScale of the MLP, mean |gamma|"),
}


def read_parameters(path: Path) -> list[dict[str, Any]]:
    """{"step", "kind", "layer", "head" (None: all), "value"} of a run's parameters.csv, in the order of the file.

    Raises ValueError for a file that is not of that kind.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path}: expected the columns {','.join(COLUMNS)}, got {reader.fieldnames}")
        try:
            return [row for line in reader for row in _parsed(line)]
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {reader.line_num}: not numbers where numbers belong") from None


def _parsed(line: Mapping[str, str]) -> list[dict[str, Any]]:
    for kind, (pattern, _) in KINDS.items():
        match = pattern.search(line["parameter"])
        if match:
            head = int(line["index"]) if line["index"] else None
            found = {"step": int(line["step"]), "kind": kind, "layer": int(match[1]) + 1, "head": head}
            return [{**found, "value": float(line["value"])}]
    return []


def parameter_figure(rows: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """A panel for each kind of parameter over the steps, a line for each layer (the mean of its heads).

    None if there are fewer than two steps, which make no curve.
    """
    kinds = [kind for kind in KINDS if any(r["kind"] == kind for r in rows)]
    if not kinds or len({r["step"] for r in rows}) < 2:
        return None

    def draw(figure: Any, theme: Theme) -> None:
        for panel, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
            means = layer_means([r for r in rows if r["kind"] == kind])
            steps = sorted({step for _, step in means})
            layers = sorted({layer for layer, _ in means})
            layer_lines(panel, theme, steps, [[means[layer, step] for step in steps] for layer in layers])
            panel.set_title(KINDS[kind][1], fontsize=9.5)
            panel.set_xlabel("step")
        figure.axes[0].legend(fontsize=8)

    alt = "Temperature and LayerScale of every block over the steps of training."
    return Drawing(draw, (3.3 * len(kinds) + 0.6, 3.3), alt, rows)


def layer_means(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], float]:
    """(layer, step) -> mean of the heads."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["layer"], row["step"]), []).append(row["value"])
    return {key: sum(values) / len(values) for key, values in found.items()}
