"""The language half of the demo's report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tost.analysis import Report
from tost.demo.language_parts import LABELS, PROMPT


def language(report: Report, found: Mapping[str, Any]) -> None:
    """Bits per byte, a sample, and what the context costs."""
    bits(report, found["bits"])
    report.paragraph(f"What it writes after “{PROMPT}”, drawn at random at temperature 0.8:")
    report.code(found["sample"])
    growth(report, found["growth"], found["growth_figure"])


def tiles(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The half's numbers at a glance."""
    ours = found["bits"]["models"]["tost"]
    kept = _by_context(found["growth"], "tost", "state_bytes")
    context = max(kept)
    theirs = _by_context(found["growth"], "softmax", "state_bytes")[context]
    return [
        (f"{ours['bits']:.2f}", "bits for a byte of source code that it has never seen"),
        (f"{theirs / kept[context]:,.0f}x", f"less kept between two tokens than softmax keeps, {context:,} tokens"),
    ]


def bits(report: Report, found: Mapping[str, Any]) -> None:
    """The models beside the compressors."""
    ours, rival = found["models"]["tost"], found["models"]["softmax"]
    report.heading("Writing code")
    report.paragraph(
        "The same operator in its causal form makes a language model: every token sees statistics of the tokens before "
        "it. One was trained on the source of Python's own standard library as it lies on this machine, "
        f"{found['training_bytes'] / 1e6:.2g} MB of it, for {ours['steps']:,} steps, and a GPT-2 of the same width and "
        f"depth for {rival['steps']:,}. Some files were held out ({found['bytes'] / 1e3:,.0f} kB): the fewer bits a "
        "model needs for a byte of them, the better it predicts them. A compressor is such a predictor too."
    )
    report.table(
        ["", "bits per byte", "parameters", "training"], sorted(rows(found), key=lambda row: row[1]), [LABELS["tost"]]
    )
    ahead = "GPT-2" if rival["bits"] < ours["bits"] else "ToST"
    report.paragraph(
        f"After so short a training {ahead} is ahead by {abs(rival['bits'] - ours['bits']):.2f} bits. They differ in "
        "more than attention: this ToST also has a convolution over four tokens and a gate, from which softmax "
        "attention gains too; docs/results.md compares them with all of that alike. gzip and xz see the held-out "
        "files as one text, and nothing else except in the row that says so; models see a file at a time. Neither the "
        "size of a model nor that of a compressor's program is counted."
    )


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A line for every model and compressor."""
    models = [
        [LABELS[name], f"{one['bits']:.3f}", f"{one['parameters'] / 1e6:.2f}M", f"{one['seconds']:.0f} s"]
        for name, one in found["models"].items()
    ]
    return models + [[one["name"], f"{one['bits']:.3f}", "", ""] for one in found["compressors"]]


def growth(report: Report, records: list[dict[str, Any]], figure: Any) -> None:
    """The flat line and the growing one."""
    ours, rival = (_by_context(records, name, "ms") for name in ("tost", "softmax"))
    first, last = min(ours), max(ours)
    report.heading("What a long context costs")
    report.paragraph(
        "To write one more token, softmax attention goes over the keys and values of all tokens so far; token "
        "statistics are a few sums, whatever the length. Measured with the two models above: at "
        f"{last:,} tokens of context ToST takes {ours[last] / ours[first]:.2f} times as long for a token as at "
        f"{first:,}, GPT-2 {rival[last] / rival[first]:.1f} times."
    )
    report.figure(
        figure,
        "One more token after a context, both axes logarithmic. Left: milliseconds. Right: what must be kept between "
        "two tokens. Beyond GPT-2's positions the last one is used again, which changes its text but not the cost. Its "
        "cache is copied as it grows, as transformers' usual cache is.",
        wide=True,
    )


def _by_context(records: list[dict[str, Any]], name: str, key: str) -> dict[int, Any]:
    return {r["context"]: r[key] for r in records if r["contestant"] == name}
