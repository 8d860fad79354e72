"""What the heads hold, painted over the frames and written as an mp4 while the clip runs."""

# H heads, N = rows x columns patches

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tost.analysis.pictures import enlarge, head_colour, rgb, span
from tost.analysis.style import DARK
from tost.extras import require
from tost.files import atomic_write

WIDTH, HEIGHT = 1280, 720
MAIN = (24, 62, 944, 580)  # left, top, right, bottom of the painted frame
HEADS = (968, 62, 1256, 696)  # of the heads' maps
TRACE = (204, 610, 944, 690)  # of the latencies
SHOWN = 148  # latencies in the trace
MOST_MAPS = 16
ONE_LINE, TWO_LINES = 22, 38  # pixels of a map's title


@dataclass(frozen=True)
class Moment:
    """One frame of the film: when (s), which, what a frame took (ms) and its predecessors did, if a scene begins."""

    time: float
    number: int
    latencies: list[float]  # ms, of all frames so far
    cuts: list[int]  # numbers of the frames that began a scene
    state_bytes: int


@contextmanager
def film(path: Path, rate: float) -> Iterator[Any]:
    """A function that appends a picture [HEIGHT, WIDTH, 3] of uint8 to the mp4 at `path`, which is whole or absent."""
    av = require("av", extra="video")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with atomic_write(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}

        def append(picture: np.ndarray) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

        yield append
        container.mux(stream.encode(None))


def save_png(picture: np.ndarray, path: Path) -> None:
    """One picture of the film as a PNG file of 256 colours, dithered: half the bytes."""
    image = require("PIL.Image", extra="video").fromarray(picture)
    image = image.quantize(palette=image.quantize(256))
    with atomic_write(path) as file:
        image.save(file, format="png", optimize=True)


class Painter:
    """Paints the film's pictures; titles stay.  title: what runs.  grid: (rows, columns).  aspect: of the clip."""

    def __init__(self, title: str, subtitle: str, grid: tuple[int, int], aspect: float, heads: int) -> None:
        self.grid, self.heads = grid, heads
        self.draw = require("PIL.ImageDraw", extra="video")
        self.image = require("PIL.Image", extra="video")
        self.ground = self.image.new("RGB", (WIDTH, HEIGHT), DARK.ground)
        self.main = fitted(MAIN, aspect, centred=True)
        self.maps = map_boxes(min(heads, MOST_MAPS), aspect)
        self.tints = np.array([rgb(head_colour(DARK, head)) * 255 for head in range(heads)], np.float32)
        pen = self.draw.Draw(self.ground)
        pen.text((24, 19), title, fill=DARK.text, font=font(20, bold=True))
        left = 24 + pen.textlength(title, font=font(20, bold=True)) + 14
        pen.text((left, 24), subtitle, fill=DARK.quiet, font=font(14))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at which a frame is painted."""
        return self.main[3] - self.main[1], self.main[2] - self.main[0]

    def paint(self, picture: np.ndarray, membership: Tensor, moment: Moment) -> np.ndarray:
        """[HEIGHT, WIDTH, 3] uint8 of a frame, picture [*size, 3], and its membership [N, H]."""
        canvas = self.ground.copy()
        pen = self.draw.Draw(canvas)
        canvas.paste(self.tinted(picture, self.enlarged(membership, self.size, 0.5)), self.main[:2])
        for head, box in enumerate(self.maps):
            values = self.enlarged(membership[:, head : head + 1], (box[3] - box[1], box[2] - box[0]))[0]
            self.share(canvas, pen, head, box, values)
        self.trace(pen, moment)
        clock = f"{int(moment.time // 60):02d}:{moment.time % 60:04.1f}   frame {moment.number:,}"
        pen.text((HEADS[2], 24), clock, fill=DARK.quiet, font=font(14), anchor="ra")
        return np.asarray(canvas)

    def enlarged(self, membership: Tensor, size: tuple[int, int], scale: float = 1.0) -> np.ndarray:
        """[N, H] -> [H, height, width], `scale` times the size; small grids stay squares."""
        height, width = (max(1, round(side * scale)) for side in size)
        return enlarge(membership, self.grid, (height, width), smooth=min(self.grid) > 8).numpy()

    def tinted(self, picture: np.ndarray, maps: np.ndarray) -> Any:
        """The frame in the colours of the heads that hold each place, mixed where two hold it about alike."""
        order = np.sort(maps, axis=0)
        lead = float(np.percentile(order[-1] - order[-2], 60)) if self.heads > 1 else 1.0
        weights = np.exp((maps - order[-1]) * (2.5 / max(lead, 1e-9)))
        tint = np.einsum("hyx,hc->yxc", weights / weights.sum(0), self.tints)  # maps are of half the size
        tint = np.asarray(self.image.fromarray(tint.astype(np.uint8)).resize(self.size[::-1]), np.float32)
        light = np.asarray(self.image.fromarray(picture).convert("L"), np.float32)[..., None] / 255
        light = (light / max(float(np.percentile(light, 99)), 0.4)).clip(0, 1)  # dark clips are lit up
        painted = (0.27 + 0.57 * light**0.8) * tint + 45 * light**2
        return self.image.fromarray(painted.clip(0, 255).astype(np.uint8))

    def share(self, canvas: Any, pen: Any, head: int, box: tuple[int, int, int, int], values: np.ndarray) -> None:
        """One head's map: black where its share is least, through its colour, to white where it is most."""
        low, high = (float(edge) for edge in np.percentile(values, (1, 99)))
        level = ((values - low) / max(high - low, 1e-9)).clip(0, 1)[..., None]
        tint = self.tints[head]
        coloured = np.where(level < 0.6, level / 0.6 * tint, tint + (level - 0.6) / 0.4 * (255 - tint))
        canvas.paste(self.image.fromarray(coloured.astype(np.uint8)), box[:2])
        name, colour = f"head {head + 1}", head_colour(DARK, head)
        top, narrow = box[1] - title_height(box), title_height(box) > ONE_LINE
        pen.text((box[0], top + 2), name, fill=colour, font=font(14, bold=True))
        place = (box[0], top + 19) if narrow else (box[2], top + 3)
        pen.text(place, span(low, high), fill=DARK.quiet, font=font(12), anchor="la" if narrow else "ra")

    def trace(self, pen: Any, moment: Moment) -> None:
        """The latencies of the last frames as bars, the last one in figures."""
        left, top, right, bottom = TRACE
        pen.text((24, top - 6), f"{moment.latencies[-1]:.0f} ms", fill=DARK.text, font=font(34, bold=True))
        pen.text((24, top + 40), "latency of this frame", fill=DARK.quiet, font=font(12))
        pen.text((24, top + 60), f"state {moment.state_bytes / 1000:.1f} kB", fill=DARK.quiet, font=font(12))
        shown = moment.latencies[-SHOWN:]
        most = 1.35 * float(np.percentile(moment.latencies[-1000:], 90))
        first, wide = moment.number - len(shown) + 1, (right - left) / SHOWN
        for place, value in enumerate(shown):
            x = left + place * wide
            high = bottom - min(value / most, 1) * (bottom - top)
            begins = first + place in moment.cuts
            pen.rectangle((x, high, x + wide - 2, bottom), fill=DARK.series[1 if begins else 0])
        pen.line((left, bottom + 1, right, bottom + 1), fill=DARK.grid, width=1)
        middle = float(np.median(moment.latencies))
        y = bottom - middle / most * (bottom - top)
        pen.line((left, y, right, y), fill=DARK.text, width=1)
        told = f"median {middle:.0f} ms"
        room = pen.textlength(told, font=font(12))
        pen.rectangle((right - room - 10, y - 19, right, y - 2), fill=DARK.ground)
        pen.text((right - 4, y - 18), told, fill=DARK.text, font=font(12), anchor="ra")
        if moment.cuts:
            pen.text(
                (left, bottom + 5), "orange: a scene begins, the statistics start anew", fill=DARK.quiet, font=font(11)
            )


def map_boxes(heads: int, aspect: float) -> list[tuple[int, int, int, int]]:
    """Boxes of the heads' maps in HEADS, in as many columns as make them largest; above each is room for its title."""
    left, top, right, bottom = HEADS
    best: list[tuple[int, int, int, int]] = []
    for columns in range(1, heads + 1):
        rows = -(-heads // columns)
        wide, high = (right - left + 14) // columns, (bottom - top + 10) // rows
        boxes = []
        for head in range(heads):
            x, y = left + head // rows * wide, top + head % rows * high
            box = fitted((x, y + ONE_LINE, x + wide - 14, y + high - 10), aspect)
            if title_height(box) > ONE_LINE:
                box = fitted((x, y + TWO_LINES, x + wide - 14, y + high - 10), aspect)
            boxes.append(box)
        if not best or boxes[0][2] - boxes[0][0] > best[0][2] - best[0][0]:
            best = boxes
    return best


def title_height(box: tuple[int, int, int, int]) -> int:
    """Pixels above a map for its title: name and range side by side, or one under the other over a narrow map."""
    return ONE_LINE if box[2] - box[0] >= 170 else TWO_LINES


def fitted(box: tuple[int, int, int, int], aspect: float, centred: bool = False) -> tuple[int, int, int, int]:
    """The largest box of width / height = aspect within `box`, at its top left or in its middle."""
    left, top, right, bottom = box
    width = max(2.0, min(right - left, (bottom - top) * aspect))
    height = max(2.0, width / aspect)
    x, y = ((right - left - width) / 2, (bottom - top - height) / 2) if centred else (0.0, 0.0)
    return round(left + x), round(top + y), round(left + x + width), round(top + y + height)


_fonts: dict[tuple[int, bool], Any] = {}


def font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib brings."""
    if (size, bold) not in _fonts:
        folder = Path(require("matplotlib", extra="video").get_data_path()) / "fonts" / "ttf"
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        _fonts[size, bold] = require("PIL.ImageFont", extra="video").truetype(str(folder / name), size)
    return _fonts[size, bold]
