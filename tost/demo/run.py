"""`tost demo`: the parts in order, each kept in the folder and reused by the next run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tost.demo import page, parts
from tost.extras import require

Results = dict[str, Any]
Step = Callable[["Options", Results], None]


@dataclass
class Options:
    """What the demo is asked to do; `epochs` is the vision recipe's if None.

    text: settings of the language recipe that differ from the demo's.
    """

    out: Path
    bench: bool = True
    quick_bench: bool = True
    language: bool = True
    epochs: float | None = None
    text: dict[str, Any] = field(default_factory=dict)


def demo(
    out: Path = Path("runs/demo"),
    bench: bool = True,
    quick_bench: bool = True,
    language: bool = True,
    epochs: float | None = None,
) -> None:
    """Train a small ToST on scanned digits and another on source code, then show what they learned and what they cost.

    Of the digits: accuracy, layers, heads and the operator's speed. Of the source code: bits per byte beside gzip, xz
    and softmax attention, a sample, and time and memory over the context.
    Everything lies in one folder: report.html, the pictures as PNG, their numbers as CSV, and the training runs.
    A second run reuses what is there.

    Args:
        out: the folder
        bench: measure time and memory of the operator
        quick_bench: in two minutes, not in twenty
        language: the half about source code, under five minutes
        epochs: passes over the training images, if not the recipe's
    """
    require("matplotlib", extra="analysis")
    for module in ("transformers", "accelerate", "kornia", "sklearn"):
        require(module, extra="training")
    options = Options(out, bench, quick_bench, language, epochs)
    started = time.perf_counter()
    results = run(options)
    report = out / "report.html"
    print(farewell(results, report, time.perf_counter() - started, out))


def run(options: Options) -> Results:
    """All parts; returns what the report shows."""
    steps = vision_steps()
    if options.bench:
        steps["time and memory of the operator beside its rivals (about two minutes)"] = operator_cost
    if options.language:
        steps |= language_steps()
    steps["the report"] = lambda options, results: page.write(results, options.out / "report.html")
    results: Results = {}
    for number, (what, step) in enumerate(steps.items(), 1):
        with part(number, len(steps), what):
            step(options, results)
    return results


def vision_steps() -> dict[str, Step]:
    """The digits."""
    return {
        "training tost_nano_6_p1 on scikit-learn's scanned digits": train_digits,
        "accuracy on the held-out digits": accuracy,
        "compression rate of every layer": layer_rates,
        "where the heads look": heads,
    }


def language_steps() -> dict[str, Step]:
    """The source code."""
    from tost.demo import language_parts as half

    def training(mixer: str) -> Step:
        def step(options: Options, results: Results) -> None:
            folder = options.out / ("language" if mixer == "tost" else f"language-{mixer}")
            results.setdefault("runs", {})[mixer] = half.train_language(folder, mixer, options.text)

        return step

    def bits(options: Options, results: Results) -> None:
        results["bits"] = half.bits_per_byte(results["runs"], options.out / "bits.json")
        results["sample"] = half.sample(results["runs"]["tost"])

    def growth(options: Options, results: Results) -> None:
        results["growth"] = half.growth(results["runs"], options.out / "growth.json")
        results["growth_figure"] = half.growth_drawing(results["growth"])
        results["growth_figure"].save(options.out / "growth.png")

    return {
        "training a language model on the source of Python's standard library (a minute)": training("tost"),
        "training a GPT-2 of the same width and depth (a minute)": training("softmax"),
        "bits per byte of held-out source, beside gzip and xz": bits,
        "time and memory of one more token over the context": growth,
    }


def train_digits(options: Options, results: Results) -> None:
    results["digits_run"] = parts.train_digits(options.out / "digits", options.epochs)


def accuracy(options: Options, results: Results) -> None:
    results["accuracy"] = parts.accuracy(results["digits_run"])


def layer_rates(options: Options, results: Results) -> None:
    results["rates"] = parts.layer_rates(results["digits_run"])
    results["rates"].figure.save(options.out / "rates.png")


def heads(options: Options, results: Results) -> None:
    results["digits"] = parts.digit_memberships(results["digits_run"])
    results["digits"].save(options.out / "digits.png")
    results["photo"] = parts.photo_memberships(results["digits_run"])
    results["photo"].save(options.out / "photo.png")


def operator_cost(options: Options, results: Results) -> None:
    results["bench"] = parts.benchmark(options.out / "bench", options.quick_bench)


@contextmanager
def part(number: int, count: int, what: str) -> Iterator[None]:
    """Say what begins; if it fails, say that it was this."""
    print(f"[{number}/{count}] {what}", flush=True)
    try:
        yield
    except (Exception, KeyboardInterrupt):
        print(f"tost demo: stopped in part {number}, {what}", file=sys.stderr, flush=True)
        raise


def farewell(results: Results, report: Path, seconds: float, out: Path) -> str:
    """The last words: accuracy, bits per byte, where the report is, what to try next."""
    found = results["accuracy"]
    low, high = found["interval"]
    lines = [
        "",
        f"accuracy {found['accuracy']:.2%} on {found['images']} held-out digits (95% interval {low:.1%} to {high:.1%})",
    ]
    if "bits" in results:
        models = results["bits"]["models"]
        lines.append(
            f"language {models['tost']['bits']:.3f} bits per byte of held-out source "
            f"(GPT-2 {models['softmax']['bits']:.3f})"
        )
    commands = page.next_commands(out, "bits" in results)
    return "\n".join(
        [
            *lines,
            f"report   {report.resolve()}   ({seconds:.0f} s)",
            "",
            "next:",
            *(f"  {command}" for command in commands),
        ]
    )
