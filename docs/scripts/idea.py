"""The figures of docs/idea.md, drawn from what the library computes: python docs/scripts/idea.py

Writes docs/images/idea-NAME.png, idea-NAME-dark.png and their numbers, idea-NAME.csv.
"""

# N tokens, K groups (heads), P directions of each, C = K*P features

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from synthetic import ANGLES, effective_heads, ellipse, lines_in_the_plane, scatter, tokens_in_heads

import tost
from tost.analysis import DARK, Drawing, Theme
from tost.files import atomic_write
from tost.rates import LogRate, coding_rate, compression_rate, memberships

DOCS = Path(__file__).resolve().parents[1]
EPS = 0.2


def tokens_figure() -> Drawing:
    """Tokens as one cloud, and as three groups: what each costs to code."""
    Z, label, _ = lines_in_the_plane()
    groups = torch.nn.functional.one_hot(label).double()
    together, apart = float(coding_rate(Z, EPS)), float(compression_rate(Z, groups, EPS))

    def draw(figure: Any, theme: Theme) -> None:
        left, right = figure.subplots(1, 2)
        scatter(left, Z, [theme.quiet] * len(Z))
        ellipse(left, Z, theme.text)
        left.set_title(f"one cloud: R = {together:.2f} nats a token")
        scatter(right, Z, [theme.series[k] for k in label.tolist()])
        for k in range(3):
            ellipse(right, Z[label == k], theme.series[k])
        right.set_title(f"three groups: Rc = {apart:.2f} nats a token")

    alt = (
        f"Tokens near three lines. Coded as one cloud they cost {together:.2f} nats each, as three groups {apart:.2f}."
    )
    return Drawing(draw, (8.4, 4.0), alt, [{"R": together, "R_c": apart, "eps": EPS}])


def memberships_figure() -> Drawing:
    """The operator's memberships of the same tokens at three temperatures."""
    Z, label, U = lines_in_the_plane()
    shares = {t: memberships(Z, U, t) for t in (30.0, 300.0, 3000.0)}
    rows = [
        {
            "temperature": t,
            "mean_of_the_largest": float(pi.max(1).values.mean()),
            "largest_is_the_true_group": float((pi.argmax(1) == label).double().mean()),
        }
        for t, pi in shares.items()
    ]

    def draw(figure: Any, theme: Theme) -> None:
        for panel, (t, pi) in zip(figure.subplots(1, 3), shares.items()):
            colours = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in theme.series[:3]])
            scatter(panel, Z, (pi @ colours.double()).clamp(0, 1).tolist())
            for k, angle in enumerate(ANGLES):
                x, y = 1.75 * math.cos(angle), 1.75 * math.sin(angle)
                panel.plot([-x, x], [-y, y], color=theme.series[k], linewidth=0.8, alpha=0.6, zorder=0)
            panel.set_title(f"temperature {t:g}")

    told = ", ".join(f"{row['mean_of_the_largest']:.2f} at {row['temperature']:g}" for row in rows)
    alt = f"Tokens coloured by their memberships in three heads; the mean of the largest share: {told}."
    return Drawing(draw, (9.6, 3.5), alt, rows)


def step_figure() -> Drawing:
    """Every head's plane before and after one step of the operator."""
    w, label, U = tokens_in_heads()
    y, stats = tost.tssa(w, torch.full((3,), float(w.shape[1]), dtype=w.dtype), return_stats=True)
    after, gate = w + y, 1 / (1 + stats.moment[0])
    rows = [
        {"head": k + 1, "direction": d + 1, "moment": float(stats.moment[0, k, d]), "gate": float(gate[k, d])}
        for k in range(3)
        for d in range(2)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(2, 3, sharex=True, sharey=True)
        colours = [theme.series[k] for k in label.tolist()]
        for line, (name, tokens) in zip(panels, (("before", w), ("after", after))):
            line[0].set_ylabel(f"{name}\nsecond direction")
            for head, panel in enumerate(line):
                panel.scatter(*tokens[0, :, head].T.numpy(), c=colours, s=7, alpha=0.75, linewidths=0)
                panel.set_xlim(-3.6, 3.6), panel.set_ylim(-1.3, 1.3)
        for head, panel in enumerate(panels[0]):
            panel.set_title(f"head {head + 1}", color=theme.series[head])
            panels[1, head].set_xlabel(f"first direction (gates {gate[head, 0]:.2f}, {gate[head, 1]:.2f})")

    alt = "Tokens in the planes of three heads, before and after one step: each group gets flat in its own head."
    return Drawing(draw, (9.6, 4.4), alt, rows)


def layers_figure() -> Drawing:
    """The same tokens through six steps: rates, and how flat the groups get in their heads."""
    w, label, U = tokens_in_heads()
    groups, temperature = torch.nn.functional.one_hot(label).double(), torch.full((3,), float(w.shape[1])).double()
    own = w.new_zeros(w.shape[1], 3, dtype=torch.bool).scatter_(1, label[:, None], True)
    rows = []
    for layer in range(7):
        Z = torch.einsum("bnkp,kcp->bnc", w, U)[0]
        filled, empty = w[0][own].square().mean(0).sqrt().tolist()
        rates = {"R": coding_rate(Z, math.sqrt(Z.shape[1])), "R_c": compression_rate(Z, groups, f=LogRate())}
        spread = {"filled": filled, "empty": empty, "thickness": empty / filled}
        rows.append({"steps": layer} | {k: float(v) for k, v in rates.items()} | spread)
        w = w + tost.tssa(w, temperature)

    def draw(figure: Any, theme: Theme) -> None:
        left, right = figure.subplots(1, 2)
        for name, colour, mark in zip(("R", "R_c"), theme.series, "os"):
            left.plot([row[name] for row in rows], f"{mark}-", color=colour, label=name.replace("_", ""))
        right.plot([row["thickness"] for row in rows], "^-", color=theme.series[2])
        left.legend()
        for panel in (left, right):
            panel.set_xlabel("steps")
            panel.set_ylim(bottom=0)
        left.set_title("nats a token")
        right.set_title("thickness of a group in its head: empty / filled")

    alt = "Coding rate and compression term fall step by step, and groups get flat in their heads."
    return Drawing(draw, (8.8, 3.4), alt, rows)


def cost_figure() -> Drawing:
    """Time and peak memory over tokens, as `tost bench scale` recorded them in docs/results.md."""
    names = {
        "softmax, unfused": "softmax attention, unfused",
        "softmax, fused": "softmax attention, fused (SDPA)",
        "the paper's code": "published formula, eager",
        "tost": "tost, cpu backend",
    }
    panels = {"milliseconds": "milliseconds (", "peak MiB": "peak MiB beyond"}
    rows = [
        {"measure": measure, "contestant": name, "tokens": tokens, "value": value}
        for measure, start in panels.items()
        for name, row in names.items()
        for tokens, value in recorded(f"**full, forward, over tokens**: {start}", row)
    ]

    def draw(figure: Any, theme: Theme) -> None:
        order = [3, 1, 4, 0]
        for panel, measure in zip(figure.subplots(1, 2), panels):
            for name, colour in zip(names, order):
                points = [(r["tokens"], r["value"]) for r in rows if (r["measure"], r["contestant"]) == (measure, name)]
                panel.plot(*zip(*points), "o-", color=theme.series[colour], label=name)
            panel.set_xscale("log", base=2), panel.set_yscale("log")
            panel.set_xticks([256, 1024, 4096, 16384], ["256", "1k", "4k", "16k"])
            panel.set_xlabel("tokens")
            panel.set_title(f"the operator, forward: {measure}")
        panel.legend()

    alt = "Time and peak memory of the operator over tokens, beside softmax attention and the paper's code."
    return Drawing(draw, (9.2, 3.6), alt, rows)


def recorded(heading: str, row: str) -> list[tuple[int, float]]:
    """(tokens, number) of a row of the first table below `heading` in docs/results.md; cells without a number: none."""
    text = (DOCS / "results.md").read_text("utf-8").partition(heading)[2]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:14] if "|" in line]
    counts = [int(float(n.rstrip("k")) * (1024 if n.endswith("k") else 1)) for n in table[0][1:] if n[0].isdigit()]
    cells = next(line for line in table if line[0] == row)[1:]
    numbers = [re.match(r"[\d,.]+(?= |$)", cell) for cell in cells]
    return [(n, float(match[0].replace(",", ""))) for n, match in zip(counts, numbers) if match]


def stream_figure() -> Drawing:
    """What a stream keeps, and how its memberships dilute: the operator on 4,096 tokens of three kinds."""
    torch.manual_seed(0)
    w, label, _ = tokens_in_heads(1366)
    w = w[:, torch.randperm(w.shape[1])[:4096]]
    H, D, sizes, state = 3, 2, [], None
    for chunk in w.split(256, 1):
        _, state = tost.causal_tssa(chunk, torch.ones(H).double(), state=state, return_state=True)
        sizes.append(state.nbytes)
    layers = {"the paper's": 1.0, "forgetting, half-life 16": 0.5 ** (1 / 16)}
    heads = {name: effective_heads(w, decay) for name, decay in layers.items()}
    rows: list[dict[str, float]] = [
        {"tokens": n} | {name: float(curve[n // 2 : n].mean()) for name, curve in heads.items()}
        for n in (2**i for i in range(2, 13))
    ]
    at = [row["tokens"] for row in rows]
    rows += [{"tokens": 256 * (i + 1), "state_bytes": size} for i, size in enumerate(sizes)]

    def draw(figure: Any, theme: Theme) -> None:
        left, right = figure.subplots(1, 2)
        seen = [256 * (i + 1) for i in range(len(sizes))]
        left.plot(seen, [2 * 8 * H * D * n for n in seen], color=theme.series[1], label="keys and values")
        left.plot(seen, sizes, color=theme.series[0], label=f"state: {sizes[0]} bytes")
        left.set_yscale("log")
        left.set_title("bytes kept (float64)")
        for name, colour in zip(heads, theme.series):
            right.plot(at, [row[name] for row in rows[: len(at)]], "o-", color=colour, label=name)
        right.set_xscale("log", base=2)
        right.set_title("heads that a token is shared among")
        for panel in (left, right):
            panel.set_xlabel("tokens"), panel.legend()

    alt = "The state keeps its size while keys and values grow; memberships spread over all heads with length."
    return Drawing(draw, (9.2, 3.5), alt, rows)


FIGURES = {
    "tokens": tokens_figure,
    "memberships": memberships_figure,
    "step": step_figure,
    "layers": layers_figure,
    "cost": cost_figure,
    "stream": stream_figure,
}


def main() -> None:
    for name, make in FIGURES.items():
        drawing = make()
        path = DOCS / "images" / f"idea-{name}.png"
        drawing.save(path)
        with atomic_write(path.with_stem(f"{path.stem}-dark")) as file:
            file.write(drawing.png(DARK))
        print(f"{path.name}: {drawing.alt}")


if __name__ == "__main__":
    main()
