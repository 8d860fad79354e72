"""The demo's report: what was measured, in words for somebody who has not read the paper."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tost.analysis import Report, benchmark_figure, fallen
from tost.bench.contestants import CONTESTANTS
from tost.bench.tables import timed

LEAD = (
    "Small transformers whose attention compares no two tokens. They were trained on this machine just now; this page "
    "shows what they learned, how the layers compress what they see, and what the operator costs."
)
MANY = 4096  # tokens from which on a ratio is worth a headline


def write(results: Mapping[str, Any], path: Path) -> None:
    """The page."""
    report = Report("Token statistics at work", LEAD)
    report.tiles(tiles(results))
    training(report, results["accuracy"])
    rates(report, results["rates"])
    heads(report, results["digits"], results["photo"])
    if "bench" in results:
        bench(report, results["bench"])
    if "bits" in results:
        from tost.demo.language_page import language

        language(report, results)
    report.heading("Go on")
    report.code("\n".join(next_commands(path.parent, "bits" in results)))
    report.footer(
        f"Written {datetime.now():%Y-%m-%d %H:%M} by tost demo. The method: Token Statistics Transformer: Linear-Time "
        "Attention via Variational Rate Reduction, ICLR 2025, arXiv 2412.17810."
    )
    report.write(path)


def tiles(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The page's numbers at a glance."""
    found = results["accuracy"]
    facts = [
        (f"{found['accuracy']:.1%}", f"of {found['images']} held-out digits are read right"),
        (f"{found['parameters'] / 1e3:.0f}k", f"parameters ({found['model']})"),
    ]
    if "bench" in results:
        facts += bench_tiles(results["bench"])
    if "bits" in results:
        from tost.demo.language_page import tiles as language_tiles

        facts += language_tiles(results)
    return facts


def bench_tiles(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Speed and memory at the most tokens that both sides ran, forward and backward, full."""
    facts = []
    for rival, name in (("published", "the published formula"), ("softmax", "unfused softmax attention")):
        pairs = _pairs(found["records"], "time", "ms", rival)
        if pairs and pairs[-1][0] >= MANY:
            tokens, ours, theirs = pairs[-1]
            facts.append((f"{theirs / ours:.0f}x", f"faster than {name}, {tokens:,} tokens, with gradients"))
    pairs = _pairs(found["records"], "peak", "bytes", "softmax")
    if pairs:
        tokens, ours, theirs = pairs[-1]
        facts.append(
            (f"{theirs / max(ours, 1):.0f}x", f"less memory than unfused softmax attention, {tokens:,} tokens")
        )
    return facts


def training(report: Report, found: Mapping[str, Any]) -> None:
    """How good it is."""
    low, high = found["interval"]
    report.heading("Reading digits")
    report.paragraph(
        "Scikit-learn ships 1,797 real scans of handwritten digits, 8 by 8 pixels each; every pixel is a token "
        f"here. A fifth of them the model never saw while training: it reads {found['right']} of those "
        f"{found['images']} right, {found['accuracy']:.2%} (95% interval {low:.1%} to {high:.1%})."
    )


def rates(report: Report, found: Any) -> None:
    """The compression rate by layer."""
    record = found.records["held-out"]
    report.heading("What the layers compress")
    report.paragraph(
        "The attention layer is derived, not designed: it is one descent step on a rate, the number of nats it "
        "takes to code the tokens group by group, in the subspace that each head has learned. Training leaves it "
        "free to use that step otherwise, so whether the rate falls is a question to measure. On held-out digits "
        f"it falls through {fallen(record)} of {len(record.layers)} blocks, and through the attention half alone in "
        f"{fallen(record, 'mixed')}."
    )
    report.figure(
        found.figure,
        "Left: variational compression rate of every block's output, mean over images, the band one standard "
        "deviation. Right: how much lower or higher it is than that of the block's input, after the attention half "
        "and after the whole block with its MLP. Every block is measured in its own subspaces, so levels compare "
        "within a block.",
        wide=True,
    )


def heads(report: Report, digits: Any, photo: Any) -> None:
    """Memberships over digits and over a photograph."""
    report.heading("Where the heads look")
    report.paragraph(
        "A head is a group: every token is shared out among the heads, and the shares add up to one. Nobody told the "
        "model what the groups should be."
    )
    report.figure(
        digits,
        "Held-out digits. Left: which head takes most of each pixel. Right: the share of each head, from its least "
        "to its most, which stand above.",
        wide=True,
    )
    report.figure(
        photo,
        "The same model on a photograph (scikit-learn's flower.jpg), one token for a patch of the picture. It has "
        "only ever seen 8 by 8 scans of digits: expect it to sort by brightness, edges and strokes, not by "
        "objects. With many more tokens than in training its shares come out nearly equal; the pictures stretch "
        "them to be seen.",
        wide=True,
    )


def bench(report: Report, found: Mapping[str, Any]) -> None:
    """Time and memory beside the rivals."""
    report.heading("What the operator costs")
    report.paragraph(
        f"Softmax attention compares all pairs of tokens; this operator needs a few sums. Measured on this machine "
        f"({found['machine']['processor']}, {found['machine']['threads']} threads, load {found['machine']['load']}), "
        "contestants taking turns in one process, after values and gradients of all of them were checked."
    )
    report.figure(
        benchmark_figure(found["records"]),
        "Forward and backward pass over the number of tokens, one image, 8 heads of 48 features; both axes "
        "logarithmic. Beside each name the power of N that fits. Memory is what a call needs beyond its inputs.",
        wide=True,
    )
    rows = [r for r in found["records"] if r["what"] == "time" and r["direction"] == "forward+backward"]
    cell = timed(base="published")
    for op, title in (("full", "Full"), ("causal", "Causal")):
        sizes = sorted({r["N"] for r in rows if r["op"] == op})
        cells = {(r["contestant"], r["N"]): cell(r) for r in rows if r["op"] == op}
        names = [name for name in CONTESTANTS if any((name, size) in cells for size in sizes)]
        table = [[CONTESTANTS[name].label, *(cells.get((name, size), "") for size in sizes)] for name in names]
        report.paragraph(f"{title}, forward and backward, milliseconds (speed-up over the published formula):")
        report.table(["", *(f"{size:,}" for size in sizes)], table, ours=[CONTESTANTS["cpu"].label])


def next_commands(out: Path, language: bool) -> list[str]:
    """A few things to try."""
    text = [f"tost generate {out / 'language'} --prompt 'class ' --stream"] if language else []
    return [
        *text,
        f"tost evaluate {out / 'digits'}",
        "tost train vision-digits --run.name digits-softmax --model.mixer softmax",
        "tost bench models",
    ]


def _pairs(records: Any, what: str, key: str, rival: str) -> list[tuple[int, float, float]]:
    """(tokens, ours, rival's) of the full operator's forward and backward pass, few tokens before many."""
    kind = (what, "full", "forward+backward")
    chosen = [r for r in records if (r["what"], r.get("op"), r.get("direction")) == kind and r[key] is not None]
    ours = {r["N"]: r[key] for r in chosen if r["contestant"] == "cpu"}
    theirs = {r["N"]: r[key] for r in chosen if r["contestant"] == rival}
    return sorted((count, ours[count], theirs[count]) for count in ours if count in theirs)
