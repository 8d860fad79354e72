"""Latencies of a long stream: what they come to by minute, and the picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tost.analysis.style import Drawing, Theme, save_csv


@dataclass
class Latencies:
    """Milliseconds of each frame, by the clock and of processor time; the resident memory (MB) now and then."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)  # (frame, MB)

    def add(self, wall: float, cpu: float) -> None:
        """One more frame, in seconds."""
        self.wall.append(1e3 * wall)
        self.cpu.append(1e3 * cpu)
        if len(self.wall) % 100 == 10:
            self.memory.append((len(self.wall), resident_megabytes()))

    def by_minute(self, fps: float) -> list[dict[str, float]]:
        """Median and 99th percentile of each whole minute of the stream, at `fps` frames a second."""
        size = max(1, round(60 * fps))
        parts = [slice(start, start + size) for start in range(0, len(self.wall) - size + 1, size)]
        return [
            {"minute": minute, **figures(self.wall[part]), **figures(self.cpu[part], "cpu_")}
            for minute, part in enumerate(parts, 1)
        ]

    def facts(self, fps: float) -> dict[str, Any]:
        """The whole stream in figures; of two minutes and more, also the last minute over the first."""
        found: dict[str, Any] = {"frames": len(self.wall), **figures(self.wall), **figures(self.cpu, "cpu_")}
        minutes = self.by_minute(fps)
        if len(minutes) > 1:
            first, last = minutes[0], minutes[-1]
            found["minutes"] = len(minutes)
            found["first_minute"], found["last_minute"] = first, last
            found["last_over_first"] = {key: last[key] / first[key] for key in first if key != "minute"}
        if self.memory and self.memory[0][1]:
            found["memory_mb"] = {"first": self.memory[0][1], "last": self.memory[-1][1]}
        return found

    def save(self, path: Path) -> None:
        """Every frame's latency as CSV."""
        rows = (
            {"frame": i + 1, "ms": f"{w:.3f}", "cpu_ms": f"{c:.3f}"}
            for i, (w, c) in enumerate(zip(self.wall, self.cpu))
        )
        save_csv(rows, path)


def figures(times: Sequence[float], kind: str = "") -> dict[str, float]:
    """Median and 99th percentile of milliseconds."""
    return {f"{kind}median_ms": float(np.median(times)), f"{kind}p99_ms": float(np.percentile(times, 99))}


def latency_figure(stream: Latencies, fps: float, rivals: Mapping[str, Sequence[float]]) -> Drawing:
    """Latency against the number of the frame, beside the rivals' (ms by frame), and by minute of the stream."""
    minutes, wall = stream.by_minute(fps), np.array(stream.wall)
    long = len(minutes) > 1

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(1, 1 + long, squeeze=False, width_ratios=[3, 2][: 1 + long])[0]
        _by_frame(panels[0], wall, rivals, theme)
        if long:
            _by_minute(panels[1], minutes, theme)

    rows: list[dict[str, Any]] = [{"series": "tost", **row} for row in minutes]
    for name, values in rivals.items():
        rows += [{"series": name, "frame": i, "median_ms": ms} for i, ms in enumerate(values, 1)]
    p99 = np.percentile(wall, 99)
    alt = f"Latency of {len(wall):,} frames: median {np.median(wall):.0f} ms, 99 percent under {p99:.0f} ms"
    alt += f"; beside it {', '.join(rivals)}, each as far as it went." if rivals else "."
    return Drawing(draw, (10.5 if long else 6.5, 3.9), alt, rows)


def _by_frame(panel: Any, wall: np.ndarray, rivals: Mapping[str, Sequence[float]], theme: Theme) -> None:
    """Log-log: the stream as the median and the 1st to 99th percentile of bins, the rivals as far as they went."""
    edges = np.unique(np.geomspace(1, len(wall) + 1, 60).astype(int))
    bins = [wall[a - 1 : b - 1] for a, b in zip(edges, edges[1:])]
    centres = [(a + b - 1) / 2 for a, b in zip(edges, edges[1:])]
    low, middle, high = ([np.percentile(part, q) for part in bins] for q in (1, 50, 99))
    panel.fill_between(centres, low, high, color=theme.series[0], alpha=0.2, lw=0)
    panel.plot(centres, middle, color=theme.series[0], lw=2.4)
    labels = [(len(wall), middle[-1], "ToST", theme.series[0])]
    for i, (name, values) in enumerate(rivals.items()):
        colour = theme.series[1 + i % (len(theme.series) - 1)]
        panel.plot(range(1, len(values) + 1), values, color=colour)
        panel.plot(len(values), values[-1], "x", color=colour, mew=1.8)
        labels.append((len(values), values[-1], name, colour))
    right = max([2, len(wall), *map(len, rivals.values())])
    _label(panel, labels, right)
    panel.set(xscale="log", yscale="log", xlim=(1, right * 1.2), xlabel="frame of the stream", ylabel="ms")
    panel.set_ylim(bottom=0.5 * min(middle))
    panel.set_title("Latency of a frame")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _label(panel: Any, labels: Sequence[tuple[int, float, str, str]], right: int) -> None:
    """Names at the ends of lines (x, y, name, colour), those near each other one above the other."""
    placed: list[tuple[int, float]] = []  # where, and its height in points
    for x, y, name, colour in sorted(labels, key=lambda label: label[1]):
        late = x >= right * 0.3
        own = 55 * float(np.log10(y)) + (-14 if late else -3)  # about 55 points are a factor of ten
        height = max([own, *(h + 11 for other, h in placed if 1 / 4 < x / other < 4)])
        placed.append((x, height))
        offset = (0 if late else 8, height - own + (-14 if late else -3))
        place: dict[str, Any] = {"xytext": offset, "ha": "right" if late else "left", "textcoords": "offset points"}
        panel.annotate(name, (x, y), **place, color=colour, weight="bold", fontsize=8.5)


def _by_minute(panel: Any, minutes: Sequence[Mapping[str, float]], theme: Theme) -> None:
    """Linear, from zero: median and 99th percentile of every minute, by the clock and of the processor's time."""
    for key, name, colour, line in (
        ("p99_ms", "99th percentile", theme.series[4], "-"),
        ("median_ms", "median", theme.series[0], "-"),
        ("cpu_p99_ms", "99th percentile, processor time", theme.series[4], ":"),
        ("cpu_median_ms", "median, processor time", theme.series[0], ":"),
    ):
        panel.plot([row["minute"] for row in minutes], [row[key] for row in minutes], line, color=colour, label=name)
    panel.set_ylim(0, 1.6 * max(row["p99_ms"] for row in minutes))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set_title("ToST, minute by minute")
    panel.set(xlabel="minute of the stream", ylabel="ms a frame")
    panel.legend(loc="upper left", fontsize=8)


def resident_megabytes() -> float:
    """Memory that this process holds now; 0 where the system doesn't say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    import resource

    return pages * resource.getpagesize() / 1e6
