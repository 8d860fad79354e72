"""A report in one HTML file: no other files, no scripts, readable on a phone, by day and by night."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tost.analysis.style import DARK, Drawing
from tost.files import atomic_write

CSS = """
:root { color-scheme: light dark; --ground: #ffffff; --text: #1f2328; --quiet: #5b6472; --line: #e6e8ec;
  --soft: #f6f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181d; --text: #e8eaed; --quiet: #9aa3af; --line: #2d323b;
  --soft: #1e2127; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3.5rem 1.25rem 5rem; max-width: 50rem; background: var(--ground); color: var(--text);
  font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: clamp(1.8rem, 6vw, 2.6rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 0.6rem; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 3.2rem 0 0.6rem; }
p { margin: 0.7rem 0; } .lead { font-size: 1.12rem; color: var(--quiet); margin-bottom: 2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.8rem; margin: 1.6rem 0; }
.tile { background: var(--soft); border-radius: 12px; padding: 1rem 1.1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.02em; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); font-size: 0.9rem; line-height: 1.35; display: block; margin-top: 0.2rem; }
figure { margin: 1.4rem 0; } figure img { width: 100%; height: auto; border-radius: 8px; display: block; }
figcaption { color: var(--quiet); font-size: 0.92rem; margin-top: 0.6rem; }
@media (min-width: 66rem) { figure.wide { margin-left: -7rem; margin-right: -7rem; }
  figure.wide figcaption { padding: 0 7rem; } }
@media (max-width: 45rem) { figure.wide img { width: 44rem; max-width: none; } }
figure .scroll { margin: 0; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.ours td { font-weight: 600; }
pre { background: var(--soft); border-radius: 10px; padding: 0.9rem 1.1rem; overflow-x: auto; font-size: 0.9rem; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.note { border-left: 3px solid var(--accent); background: var(--soft); border-radius: 0 8px 8px 0; padding: 0.6rem 1rem;
  font-size: 0.95rem; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--quiet);
  font-size: 0.85rem; }
"""


@dataclass(frozen=True)
class Markup:
    """HTML that goes into a report as it is: its maker has escaped every text in it."""

    html: str


class Report:
    """Collects sections and writes them; all text is escaped, but for what is given as Markup.

    report = Report("Title", "What this is."); report.heading("A"); report.figure(drawing, "..."); report.write(path)
    """

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<header><h1>{escape(title)}</h1><p class='lead'>{escape(lead)}</p></header>"]

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self.parts.append(f"<p>{escape(text)}</p>")

    def tiles(self, facts: Iterable[tuple[str, str]]) -> None:
        """A row of (number, what it is)."""
        tiles = "".join(
            f"<div class='tile'><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in facts
        )
        self.parts.append(f"<div class='tiles'>{tiles}</div>")

    def figure(self, drawing: Drawing, caption: str, wide: bool = False) -> None:
        """A picture in both themes; the reader's system chooses."""
        light, dark = (_inline(drawing.png(*theme)) for theme in ((), (DARK,)))
        self.parts.append(
            f"<figure{' class=wide' if wide else ''}><div class='scroll'><picture>"
            f"<source srcset='{dark}' media='(prefers-color-scheme: dark)'>"
            f"<img src='{light}' alt='{escape(drawing.alt, quote=True)}'></picture></div>"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], ours: Iterable[str] = ()) -> None:
        """Text to the left, numbers to the right; rows whose first cell is in `ours` stand out."""
        ours = set(ours)
        top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        lines = "".join(
            f"<tr{' class=ours' if row[0] in ours else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
            for row in rows
        )
        table = f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"
        self.parts.append(f"<div class='scroll'>{table}</div>")

    def note(self, text: str) -> None:
        """A line that the reader must not miss."""
        self.parts.append(f"<p class='note'>{escape(text)}</p>")

    def markup(self, block: Markup) -> None:
        """A block of HTML that is safe already, such as painted text."""
        self.parts.append(block.html)

    def code(self, text: str) -> None:
        self.parts.append(f"<pre>{escape(text)}</pre>")

    def footer(self, text: str) -> None:
        self.parts.append(f"<footer>{escape(text)}</footer>")

    def html(self) -> str:
        """The whole page."""
        return (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            f"<title>{escape(self.title)}</title><style>{CSS}</style></head>\n<body>\n"
            + "\n".join(self.parts)
            + "\n</body></html>\n"
        )

    def write(self, path: str | Path) -> None:
        """The page as one file."""
        with atomic_write(path, "w") as file:
            file.write(self.html())


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
