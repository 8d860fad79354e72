"""How much the heads' subspaces overlap: |U_i^T U_j| with normalised columns, as in the paper."""

# H heads, P features per head, C = H*P

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tost.analysis.panels import set_lines
from tost.analysis.pictures import bare
from tost.analysis.recorders import mixing_blocks
from tost.analysis.style import Drawing, Theme
from tost.nn import TSSA, CausalTSSA

SHOWN = 12  # matrices in the picture at most


@torch.no_grad()
def coherences(model: nn.Module) -> dict[str, Tensor]:
    """Layer -> [H, P, H, P], |cosine| between every two rows of the projection that memberships are read from.

    Row (h, p) of in_proj, without its bias, is column p of U_h.
    """
    found = {}
    for name, block in mixing_blocks(model).items():
        mixer: Any = block.mixer
        if isinstance(mixer, (TSSA, CausalTSSA)):
            U = mixer.in_proj.weight[: mixer.dim].detach().float().cpu()
            U = U / U.norm(dim=1, keepdim=True).clamp_min(1e-12)
            H = mixer.num_heads
            found[name] = (U @ U.T).abs().view(H, mixer.dim // H, H, mixer.dim // H)
    return found


def summary(matrix: Tensor) -> dict[str, float]:
    """Mean |cosine| between columns of one head and between those of two, a column with itself left out."""
    H, P = matrix.shape[:2]
    flat = matrix.reshape(H * P, H * P)
    head = torch.arange(H * P) // P
    same = (head[:, None] == head) & ~torch.eye(H * P, dtype=torch.bool)
    other = head[:, None] != head
    return {
        "within": float(flat[same].mean()) if same.any() else 0.0,
        "between": float(flat[other].mean()) if other.any() else 0.0,
    }


def random_coherence(features: int) -> float:
    """E |u . v| of independent directions in R^C: Gamma(C/2) / (sqrt(pi) Gamma((C+1)/2))."""
    return math.exp(math.lgamma(features / 2) - math.lgamma((features + 1) / 2)) / math.sqrt(math.pi)


def matrices_figure(found: Mapping[str, Tensor]) -> Drawing:
    """|U^T U| of every layer (of some, where there are many), heads parted by lines; CSV: means of every two heads."""
    names = list(found)
    shown = names if len(names) <= SHOWN else [names[round(i * (len(names) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    across = min(len(shown), 3 if len(shown) in (3, 5, 6) else 4)
    down = -(-len(shown) // across)

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(down, across, squeeze=False).flatten()
        picture = None
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        for panel, name in zip(panels, shown):
            H, P = found[name].shape[:2]
            picture = panel.imshow(found[name].reshape(H * P, H * P).numpy(), vmin=0, vmax=0.5, cmap="viridis")
            for edge in range(1, H):
                panel.axhline(edge * P - 0.5, color="white", linewidth=0.5)
                panel.axvline(edge * P - 0.5, color="white", linewidth=0.5)
            panel.set_title(f"block {names.index(name) + 1}", fontsize=9)
            bare(panel)
        bar = figure.colorbar(picture, ax=list(panels), shrink=0.8, extend="max", label="|cosine|")
        bar.outline.set_visible(False)

    rows = [
        {"layer": number, "module": name, "head": i + 1, "other_head": j + 1, "mean": float(matrix[i, :, j].mean())}
        for number, (name, matrix) in enumerate(found.items(), 1)
        for i in range(matrix.shape[0])
        for j in range(matrix.shape[0])
    ]
    alt = f"Absolute cosines between the columns of all heads' subspaces in {len(shown)} layers."
    return Drawing(draw, (2.1 * across + 0.9, 2.25 * down), alt, rows)


def coherence_figure(trained: Mapping[str, Tensor], untrained: Mapping[str, Tensor]) -> Drawing:
    """Mean coherence between and within heads over the layers, beside the untrained model and random directions."""
    after = [summary(matrix) for matrix in trained.values()]
    before = [summary(matrix) for matrix in untrained.values()]
    chance = [random_coherence(m.shape[0] * m.shape[1]) for m in trained.values()]
    lines: dict[str, Sequence[float]] = {
        "between heads": [one["between"] for one in after],
        "within a head": [one["within"] for one in after],
        "untrained, between": [one["between"] for one in before],
    }
    rows = [
        {"layer": i + 1, "module": name, **after[i]}
        | {f"untrained_{key}": value for key, value in before[i].items()}
        | {"random": chance[i]}
        for i, name in enumerate(trained)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        panel = figure.subplots()
        panel.axhline(chance[0], color=theme.quiet, linestyle=":", linewidth=1.4, label="random directions")
        set_lines(panel, theme, lines)
        panel.set_ylim(0, 1.15 * max(map(max, lines.values())))
        panel.set_title("mean |cosine| between columns of U")

    return Drawing(draw, (5.6, 3.4), "Coherence of the subspaces within and between heads over the layers.", rows)
