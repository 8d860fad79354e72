"""`tost demo`: the parts in order, each kept in the folder and reused by the next run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tost.demo import page, parts
from tost.extras import require


@dataclass
class Options:
    """What the demo is asked to do; `epochs` is the recipe's if None."""

    out: Path
    bench: bool
    quick_bench: bool
    epochs: float | None


def demo(
    out: Path = Path("runs/demo"), bench: bool = True, quick_bench: bool = True, epochs: float | None = None
) -> None:
    """Train a small ToST on scanned digits, then show its accuracy, its layers, its heads and the operator's speed.

    Everything lies in one folder: report.html, the pictures as PNG, their numbers as CSV, and the training run.
    A second run reuses what is there.

    Args:
        out: the folder
        bench: measure time and memory of the operator
        quick_bench: in two minutes, not in twenty
        epochs: passes over the training images, if not the recipe's
    """
    require("matplotlib", extra="analysis")
    for module in ("transformers", "accelerate", "kornia", "sklearn"):
        require(module, extra="training")
    options = Options(out, bench, quick_bench, epochs)
    started = time.perf_counter()
    results = run(options)
    report = out / "report.html"
    print(farewell(results, report, time.perf_counter() - started, out))


def run(options: Options) -> dict[str, Any]:
    """All parts; returns what the report shows."""
    out = options.out
    results: dict[str, Any] = {}
    with part(1, "training tost_nano_6_p1 on scikit-learn's scanned digits"):
        folder = parts.train_digits(out / "digits", options.epochs)
    with part(2, "accuracy on the held-out digits"):
        results["accuracy"] = parts.accuracy(folder)
    with part(3, "compression rate of every layer"):
        results["rates"] = parts.layer_rates(folder)
        results["rates"].figure.save(out / "rates.png")
    with part(4, "where the heads look"):
        results["digits"] = parts.digit_memberships(folder)
        results["digits"].save(out / "digits.png")
        results["photo"] = parts.photo_memberships(folder)
        results["photo"].save(out / "photo.png")
    if options.bench:
        with part(5, "time and memory of the operator beside its rivals (about two minutes)"):
            results["bench"] = parts.benchmark(out / "bench", options.quick_bench)
    with part(6, "the report"):
        page.write(results, out / "report.html")
    return results


@contextmanager
def part(number: int, what: str) -> Iterator[None]:
    """Say what begins; if it fails, say that it was this."""
    print(f"[{number}/6] {what}", flush=True)
    try:
        yield
    except (Exception, KeyboardInterrupt):
        print(f"tost demo: stopped in part {number}, {what}", file=sys.stderr, flush=True)
        raise


def farewell(results: dict[str, Any], report: Path, seconds: float, out: Path) -> str:
    """The last words: accuracy, where the report is, what to try next."""
    found = results["accuracy"]
    low, high = found["interval"]
    return "\n".join(
        [
            "",
            f"accuracy {found['accuracy']:.2%} on {found['images']} held-out digits "
            f"(95% interval {low:.1%} to {high:.1%})",
            f"report   {report.resolve()}   ({seconds:.0f} s)",
            "",
            "next:",
            *(f"  {command}" for command in page.next_commands(out)),
        ]
    )
