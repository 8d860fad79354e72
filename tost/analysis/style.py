"""One style for every figure: light and dark from the same drawing, colours that colour-blind readers tell apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tost.extras import require
from tost.files import atomic_write


@dataclass(frozen=True)
class Theme:
    """Colours of a figure: ground, text, quieter text, grid, and series in the order they are used (Okabe and Ito)."""

    ground: str
    text: str
    quiet: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme(
    "#ffffff",
    "#1f2328",
    "#667085",
    "#e6e8ec",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8a8f98"),
)
DARK = Theme(
    "#16181d",
    "#e8eaed",
    "#9aa3af",
    "#2d323b",
    ("#56b4e9", "#f0803c", "#2fc08f", "#e39ac0", "#f0c04a", "#8fd0ff", "#b79ad6", "#9aa3af"),
)


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn when asked, in either theme, with the numbers it shows.

    draw: fills a matplotlib figure.  alt: what a reader who cannot see it should know.
    """

    draw: Callable[[Any, Theme], None]
    size: tuple[float, float]
    alt: str
    rows: Sequence[Mapping[str, Any]]
    dpi: int = 160
    made: dict[tuple[str, str], bytes] = field(default_factory=dict, repr=False, compare=False)

    def png(self, theme: Theme = LIGHT) -> bytes:
        """The picture as a PNG file's bytes."""
        return self.picture("png", theme)

    def picture(self, kind: str, theme: Theme = LIGHT) -> bytes:
        """The picture as a file's bytes, kind "png" or "svg"; made once."""
        return self.pictures((kind,), theme)[0]

    def pictures(self, kinds: Sequence[str], theme: Theme = LIGHT) -> list[bytes]:
        """The picture as files of several kinds, drawn and laid out once."""
        missing = [kind for kind in kinds if (kind, theme.ground) not in self.made]
        if missing:
            self.made.update({(kind, theme.ground): data for kind, data in self._drawn(missing, theme)})
        return [self.made[kind, theme.ground] for kind in kinds]

    def _drawn(self, kinds: Sequence[str], theme: Theme) -> Iterator[tuple[str, bytes]]:
        matplotlib = require("matplotlib", extra="analysis")
        agg = require("matplotlib.backends.backend_agg", extra="analysis")
        with matplotlib.rc_context(settings(theme)):
            figure = require("matplotlib.figure", extra="analysis").Figure(figsize=self.size, layout="constrained")
            agg.FigureCanvasAgg(figure)
            self.draw(figure, theme)
            for kind in kinds:
                buffer = io.BytesIO()
                metadata = {"Software" if kind == "png" else "Date": None}
                figure.savefig(buffer, format=kind, dpi=self.dpi, metadata=metadata)
                figure.set_layout_engine("none")  # the layout is found and stays
                yield kind, buffer.getvalue()

    def save_all(self, folder: str | Path, name: str) -> list[str]:
        """NAME.png and NAME.svg (light) and NAME.csv in `folder`; returns the files' names."""
        self.pictures(("png", "svg"))
        for kind in ("png", "svg"):
            self.save(Path(folder) / f"{name}.{kind}")
        return [f"{name}.{kind}" for kind in ("png", "svg", "csv")]

    def save(self, path: str | Path) -> None:
        """The light picture at `path` (.png or .svg) and its numbers beside it (.csv)."""
        path = Path(path)
        picture = self.picture(path.suffix[1:])
        with atomic_write(path) as file:
            file.write(picture)
        save_csv(self.rows, path.with_suffix(".csv"))


def ramp(theme: Theme, count: int) -> list[str]:
    """`count` colours from early to late, told apart by lightness too (matplotlib's viridis, off the ground's end)."""
    matplotlib = require("matplotlib", extra="analysis")
    first, last = (0.0, 0.82) if theme is LIGHT else (0.3, 1.0)
    places = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    return [matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](place)) for place in places]


def settings(theme: Theme) -> dict[str, Any]:
    """matplotlib's settings for a theme."""
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "svg.fonttype": "none",  # letters stay letters
        "svg.hashsalt": "tost",  # the same figure is the same file
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.quiet,
        "axes.facecolor": theme.ground,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.quiet,
        "ytick.color": theme.quiet,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.9,
        "lines.markersize": 5.5,
        "figure.facecolor": theme.ground,
        "savefig.facecolor": theme.ground,
    }


def save_csv(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Rows as CSV; the columns are the keys in the order they first appear."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
