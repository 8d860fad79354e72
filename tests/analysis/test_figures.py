"""Figures show the numbers they were given, and files are whole."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from tost.analysis import (
    DARK,
    LIGHT,
    Drawing,
    Report,
    benchmark_figure,
    fallen,
    membership_figure,
    rate_figure,
    save_csv,
)
from tost.analysis.benchmark_figure import curves
from tost.analysis.growth_law import crossing, exponent, tail
from tost.analysis.pictures import enlarge, span
from tost.rates import RateRecord

pytest.importorskip("matplotlib")


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def record(seed: int = 0, samples: int = 4) -> RateRecord:
    values = torch.rand(3, 5, samples, generator=torch.Generator().manual_seed(seed)) + 1
    return RateRecord([f"blocks.{i}" for i in range(5)], *values)


def bench_result(sizes=(1024, 2048, 4096)):
    times, memory = [], []
    for op in ("full", "causal"):
        for n in sizes:
            for name, power, ms in (("softmax", 2, 1e-6), ("published", 1, 1e-3), ("cpu", 1, 1e-4)):
                row = {
                    "what": "time",
                    "contestant": name,
                    "op": op,
                    "direction": "forward+backward",
                    "B": 1,
                    "N": n,
                    "H": 8,
                    "D": 48,
                }
                times.append({**row, "ms": ms * n**power, "speed_up": 1.0, "quartiles_ms": [1, 2]})
                memory.append({**row, "what": "peak", "bytes": 100 * n**power, "note": None})
        times.append({**times[-1], "contestant": "sdpa", "ms": None, "note": "over 5 s a call"})
    return [*times, *memory, {"what": "layers", "N": 7}]


def test_rate_figure_keeps_means_and_spreads():
    records = {"training": record(0), "held-out": record(1)}
    drawing = rate_figure(records)
    row = next(r for r in drawing.rows if r["set"] == "held-out" and r["layer"] == 3)
    assert row["after_mean"] == pytest.approx(float(records["held-out"].after[2].mean()))
    assert row["before_sd"] == pytest.approx(float(records["held-out"].before[2].std()))
    assert len(drawing.rows) == 10


def test_fallen_counts_blocks_below_their_input():
    falling = RateRecord(
        ["a", "b"], torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    )
    assert (fallen(falling), fallen(falling, "mixed")) == (2, 1)


@pytest.mark.parametrize("kind", ["rates", "heads", "bench"])
def test_figures_draw_in_both_themes(kind):
    drawing = {
        "rates": lambda: rate_figure({"training": record()}),
        "heads": lambda: membership_figure(torch.rand(12, 16), {"block 1": torch.rand(12, 3).softmax(1)}, (3, 4)),
        "bench": lambda: benchmark_figure(bench_result()),
    }[kind]()
    light, dark = pixels(drawing.png(LIGHT)), pixels(drawing.png(DARK))
    assert light.shape == dark.shape
    assert (light[0, 0] == 255).all() and (dark[0, 0] < 40).all()
    assert light.std() > 10  # something is on it


def test_membership_figure_shows_the_strongest_head():
    """Left half to head 1, right half to head 2: the overlay's halves take their colours."""
    pi = torch.zeros(2, 4, 2)
    pi[:, :2, 0], pi[:, 2:, 1] = 0.9, 0.9
    pi[:, :2, 1], pi[:, 2:, 0] = 0.1, 0.1
    drawing = membership_figure(torch.full((40, 80), 0.5), {"block 1": pi.flatten(0, 1)}, (2, 4), smooth=False)
    shares = {(r["head"]): r["strongest_share"] for r in drawing.rows}
    assert shares == {1: 0.5, 2: 0.5}
    image = pixels(drawing.png()).astype(int)
    bluish = (image[..., 2] - image[..., 0] > 60).any(0).nonzero()[0]
    reddish = (image[..., 0] - image[..., 2] > 60).any(0).nonzero()[0]
    assert bluish.min() < reddish.min()


def test_membership_figure_refuses_another_grid():
    with pytest.raises(ValueError, match=r"\[12, heads\].*got \[10, 3\]"):
        membership_figure(torch.rand(8, 8), {"block 1": torch.rand(10, 3)}, (3, 4))


def test_enlarging_keeps_the_range_and_the_corners():
    pi = torch.rand(12, 2)
    large = enlarge(pi, (3, 4), (30, 40))
    assert large.shape == (2, 30, 40)
    assert large.amax() <= pi.max() and large.amin() >= pi.min()
    squares = enlarge(pi, (3, 4), (30, 40), smooth=False)
    assert squares[1, 29, 39] == pi[11, 1] and squares[0, 0, 10] == pi[1, 0]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.1, 0.9, "0.10 to 0.90"), (0.2498, 0.2503, "0.24980 to 0.25030"), (0.25, 0.25, "0.25 to 0.25")],
)
def test_span_has_digits_that_tell_apart(low, high, text):
    assert span(low, high) == text


def test_exponents_are_fitted():
    series = curves(bench_result()[:-1], "ms", "full", "forward+backward", (1, 8, 48))
    assert exponent(series["softmax"]) == pytest.approx(2)
    assert exponent(series["cpu"]) == pytest.approx(1)
    assert exponent(series["cpu"][:2]) is None
    assert "sdpa" not in series


def test_benchmark_figure_needs_a_sweep():
    with pytest.raises(ValueError, match="two or more numbers of tokens"):
        benchmark_figure(bench_result((1024,))[:1])


def test_only_the_largest_lengths_count_for_an_exponent():
    fixed_cost = [(64, 5.0), (256, 5.0), (1024, 10.0), (4096, 40.0), (16384, 160.0)]
    assert exponent(tail(fixed_cost)) == pytest.approx(1) and exponent(fixed_cost) < 0.7


def test_curves_cross_where_they_are_equal():
    ours, theirs = [(n, 1000 + n) for n in (100, 1000, 10000)], [(n, n * n / 1000) for n in (100, 1000, 10000)]
    assert 1000 < crossing(ours, theirs) < 10000
    assert crossing(theirs, ours) is None and crossing(ours, ours) is None


def test_a_figure_is_saved_with_its_numbers(tmp_path):
    rate_figure({"training": record()}).save(tmp_path / "new" / "rates.png")
    assert pixels((tmp_path / "new" / "rates.png").read_bytes()).size > 1000
    with open(tmp_path / "new" / "rates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["module"] for row in rows] == [f"blocks.{i}" for i in range(5)]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["rates.csv", "rates.png"]


def test_csv_takes_rows_with_different_columns(tmp_path):
    save_csv([{"a": 1}, {"b": "x,y"}], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,\n,"x,y"\n'


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "srcset", "href")]


def test_report_is_one_file_without_scripts(tmp_path):
    report = Report("A & B", "lead <b>")
    report.tiles([("98 %", "right")])
    report.heading("x < y")
    report.figure(Drawing(lambda figure, theme: None, (1, 1), 'say "hi"', []), "caption")
    report.table(["", "1k"], [["ours", "1"], ["theirs", "2"]], ours=["ours"])
    report.code("a > b")
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Links()
    page.feed(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.sources) == 2 and all(source.startswith("data:image/png;base64,") for source in page.sources)
    for escaped in ("A &amp; B", "lead &lt;b&gt;", "x &lt; y", "a &gt; b", "say &quot;hi&quot;"):
        assert escaped in text
    assert "<tr class=ours><td>ours</td>" in text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
