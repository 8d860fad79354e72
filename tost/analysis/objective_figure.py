"""The objective of maximal coding rate reduction, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tost.analysis.panels import set_lines
from tost.analysis.statistics import Gathered
from tost.analysis.style import Drawing, Theme

PARTS = {"R": "R: all tokens", "Rc": "R_c: group by group", "reduction": "R - R_c"}


def objective_figure(gathered: Mapping[str, Gathered]) -> Drawing:
    """R, exact R_c and their difference of every block's output tokens, in nats; means and one standard deviation."""
    rows: list[dict[str, Any]] = [
        {"set": name, "layer": number, "module": module, "samples": sum(map(len, sums.coding))} | _spread(sums)
        for name, found in gathered.items()
        for number, (module, sums) in enumerate(found.layers.items(), 1)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        for panel, (key, title) in zip(figure.subplots(1, 3), PARTS.items()):
            means = {name: [r[f"{key}_mean"] for r in rows if r["set"] == name] for name in gathered}
            sds = {name: [r[f"{key}_sd"] for r in rows if r["set"] == name] for name in gathered}
            set_lines(panel, theme, means, sds)
            panel.set_title(f"{title}, nats")

    return Drawing(draw, (9.2, 3.3), "Coding rate, compression term and their difference after every block.", rows)


def _spread(sums: Any) -> dict[str, float]:
    whole, groups = torch.cat(sums.coding), torch.cat(sums.compression)
    found = {}
    for key, values in (("R", whole), ("Rc", groups), ("reduction", whole - groups)):
        found[f"{key}_mean"] = float(values.mean())
        found[f"{key}_sd"] = float(values.std(correction=0))
    return found
