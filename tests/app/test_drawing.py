"""Maps and charts show the numbers they were given."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
from PIL import Image

from tost.app.chart import Axis, Line, chart, short, svg
from tost.app.maps import attention_maps, membership_maps, ramp, strongest
from tost.app.palette import head_colour, rgb, style


def pictures(page):
    """The pixels of every picture in a piece of HTML."""
    found = re.findall(r"data:image/jpeg;base64,([^']*)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int) for data in found]


def test_a_ramp_goes_from_black_through_the_colour_to_white():
    values = np.linspace(0.2, 0.7, 1001)[None]
    got = ramp(values, "#0072b2")[0]
    assert got[0].tolist() == [0, 0, 0] and got[-1].tolist() == [255, 255, 255]
    at = np.argmin(abs(got.astype(int) - rgb("#0072b2")).sum(1)) / 1000
    assert abs(at - (0.01 + 0.6 * 0.98)) < 0.01
    assert (ramp(np.full((3, 3), 0.25), "#0072b2") == 0).all()  # nothing to tell apart


def test_each_place_has_the_colour_of_its_strongest_head():
    maps = np.stack([np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])]).repeat(8, 1).repeat(8, 2)
    got = strongest(np.full((8, 16, 3), 128, np.uint8), maps).astype(int)
    for column, head in ((2, 0), (13, 1)):
        assert abs(got[4, column] - (0.55 * np.array(rgb(head_colour(head))) + 0.55 * 128 - 13)).max() <= 1


def test_a_membership_is_where_its_patch_is():
    rows, columns, heads = 3, 4, 5
    shares = torch.full((rows * columns, heads), 0.1)
    shares[1 * columns + 2, 3] = 0.6
    page = membership_maps(np.zeros((24, 32, 3), np.uint8), shares, (rows, columns))
    drawn = pictures(page)
    assert len(drawn) == heads + 2 and page.count("<figcaption>") == heads + 2
    height, width = drawn[0].shape[:2]
    assert abs(width / height - columns / rows) < 0.01
    bright = drawn[2 + 3].sum(-1) > 600
    inside = np.zeros_like(bright)
    inside[height // rows : 2 * height // rows, width * 2 // columns : width * 3 // columns] = True
    assert (bright == inside).mean() > 0.97  # JPEG blurs the edge
    assert "0.10 to 0.60" in page


def test_attention_has_a_map_for_every_head():
    weights = torch.rand(4, 15 * 12)
    page = attention_maps(weights, (15, 12))
    assert len(pictures(page)) == 4 and "--columns:4" in page


def places(picture):
    """The points of the lines of an SVG."""
    root = ET.fromstring(picture)
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()] for line in root.iter("polyline")
    ]


def test_lines_go_through_their_points():
    points = [(1, 0.0), (2, 5.0), (5, 10.0)]
    (line,) = places(svg([Line("a", points, 0)], "t", "x", log=False, zero=True))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert abs((x1 - x0) / (x2 - x0) - 1 / 4) < 0.01 and abs((y1 - y0) / (y2 - y0) - 1 / 2) < 0.01 and y2 < y0


def test_powers_are_straight_on_logarithmic_axes():
    (line,) = places(svg([Line("a", [(n, 3.0 * n**2) for n in (1, 10, 100)], 0)], "t", "x", log=True, zero=True))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert abs((x1 - x0) - (x2 - x1)) < 0.2 and abs((y1 - y0) - (y2 - y1)) < 0.2


@pytest.mark.parametrize(
    "points", [[(1, 0.0)], [(1, 2.0), (2, 2.0)], [(1, -3.0), (2, 4.0)], [(1, -0.001), (2, -0.002)], []], ids=str
)
def test_any_numbers_can_be_drawn(points):
    page = chart([Line("<b>", points, 0, marks=True)], "a & b", "x", told="c < d")
    assert "<b>" not in page.replace("<b></b>", "") and "a &amp; b" in page and "c &lt; d" in page and "nan" not in page
    ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.013, 0.019), (1, 7), (0.2, 91234), (256, 65536)])
def test_ticks_are_few_and_within(log, low, high):
    ticks = Axis([low, high], 0, 100, log).ticks()
    assert 1 <= len(ticks) <= 9 and all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_short_numbers():
    given = (0, 0.01234, 4.5678, 78.9, 1234, 65536, -0.25, 123.4)
    assert [short(v) for v in given] == ["0", "0.0123", "4.57", "78.9", "1,234", "64k", "-0.25", "123"]


def test_the_style_asks_nobody_for_anything():
    rules = style()
    assert "url(" not in rules and "@import" not in rules and "http" not in rules
    assert rules.count("{") == rules.count("}")
