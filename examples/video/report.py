"""What a run says in the end: one table for the eye, files for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.video.compare import Comparison
from examples.video.encoder import FrameEncoder
from examples.video.latency import latency_figure
from examples.video.play import Play, Run
from tost.bench.machine import machine
from tost.files import atomic_write


def headline(what: Play, encoder: FrameEncoder, model: str, grid: tuple[int, int]) -> str:
    """What is about to be played, through what."""
    told, config = what.facts, encoder.model.config
    size = f"{told.width} x {told.height} pixels, {told.rate:.4g} frames/s"
    how = f"{grid[0] * grid[1]} tokens a frame ({grid[1]} x {grid[0]} patches of {config.patch_size})"
    return (
        f"{what.clip.name}: {size}, played at {what.rate:.4g} frames/s\n"
        f"{model}: {config.num_layers} layers of {config.num_heads} heads, width {config.dim}, {how}"
    )


def summarise(what: Play, run: Run, found: Sequence[Comparison]) -> dict[str, Any]:
    """Everything measured, for summary.json."""
    return {
        "frames_per_second": what.rate,
        "scene_cuts": len(run.cuts),
        "state_bytes": run.state_bytes,
        **run.latencies.facts(what.rate),
        "rivals": [comparison.facts() for comparison in found if comparison.rival],
        "machine": machine(),
    }


def write(out: Path, chosen: Mapping[str, Any], what: Play, run: Run, found: Sequence[Comparison]) -> dict[str, Any]:
    """summary.json with what was chosen and measured, which is returned, frames.csv, latency.png and latency.csv."""
    summary = {**chosen, **summarise(what, run, found)}
    with atomic_write(out / "summary.json", "w") as file:
        file.write(json.dumps(summary, indent=2) + "\n")
    run.latencies.save(out / "frames.csv")
    curves = {comparison.name: comparison.rival for comparison in found if comparison.rival}
    latency_figure(run.latencies, what.rate, curves).save(out / "latency.png")
    return summary


def report(out: Path, summary: Mapping[str, Any], run: Run, found: Sequence[Comparison]) -> str:
    """The lines that the command ends with."""
    lines = [
        f"{summary['frames']:,} frames, {summary['scene_cuts']} scene cuts: median {summary['median_ms']:.1f} ms a "
        f"frame, 99 percent under {summary['p99_ms']:.1f} ms (of processor time {summary['cpu_median_ms']:.1f} and "
        f"{summary['cpu_p99_ms']:.1f} ms), state {run.state_bytes / 1000:.1f} kB"
    ]
    if "minutes" in summary:
        grown = summary["last_over_first"]
        lines.append(
            f"minute {summary['minutes']} over minute 1: median {grown['median_ms']:.2f}, p99 {grown['p99_ms']:.2f}; "
            f"of processor time {grown['cpu_median_ms']:.2f} and {grown['cpu_p99_ms']:.2f}"
        )
    if found:
        lines += table(found, run.state_bytes)
    made = [*run.written, *(out / name for name in ("latency.png", "latency.csv", "frames.csv", "summary.json"))]
    lines.append("written: " + ", ".join(map(str, made)))
    if not run.whole:
        lines.append("stopped before the end; what was played is written")
    return "\n".join(lines)


def table(found: Sequence[Comparison], state_bytes: int) -> list[str]:
    """A line for each rival: its last frames beside the stream's, taken in turns."""
    lines = [
        f"{'':<18}{'frames':>8}{'ms a frame':>12}{'ToST':>8}{'ratio':>8}{'of cpu':>9}{'memory':>12}{'of state':>10}"
    ]
    for comparison in found:
        if not comparison.rival:
            lines.append(f"{comparison.name:<18}{comparison.ended}")
            continue
        facts = comparison.facts()
        held = facts["cache_bytes"]
        memory = f"{held / 1e6:>9.1f} MB{held / max(state_bytes, 1):>9,.0f}x" if held else f"{'-':>12}{'-':>10}"
        ended = "" if comparison.ended == "done" else f"  ({comparison.ended})"
        lines.append(
            f"{comparison.name:<18}{facts['frames']:>8}{facts['ms']:>12.1f}{facts['tost_ms']:>8.1f}"
            f"{facts['ratio']:>7.1f}x{facts['cpu_ratio']:>8.1f}x{memory}{ended}"
        )
    return lines
