"""What an analysis found, in the order of its report, and how it becomes files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tost.analysis.progress import progress
from tost.analysis.report import Markup, Report
from tost.analysis.style import DARK, Drawing, save_csv
from tost.files import atomic_write

REPORT, INDEX = "report.html", "analysis.json"


@dataclass
class Figure:
    """name: of its files.  caption: what it shows and how to read it."""

    name: str
    drawing: Drawing
    caption: str


@dataclass
class Table:
    """name: of its CSV.  rows: all of them.  head, shown: what the report prints."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    head: Sequence[str]
    shown: Sequence[Sequence[str]]
    ours: Sequence[str] = ()


@dataclass
class Section:
    """A heading, what to know, then its figures, tables and painted text."""

    heading: str
    text: str
    parts: list[Figure | Table | Markup] = field(default_factory=list)


@dataclass
class Analysis:
    """Everything that was found; `figures` and `tables` are the pieces by name, `write` makes the files."""

    title: str
    lead: str
    tiles: list[tuple[str, str]]
    sections: list[Section]
    notes: list[str] = field(default_factory=list)
    footer: str = ""

    @property
    def figures(self) -> dict[str, Drawing]:
        return {part.name: part.drawing for part in self._parts() if isinstance(part, Figure)}

    @property
    def tables(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """The numbers behind every figure and table, by its name."""
        drawn = {name: drawing.rows for name, drawing in self.figures.items()}
        return drawn | {part.name: part.rows for part in self._parts() if isinstance(part, Table)}

    def _parts(self) -> Iterator[Figure | Table | Markup]:
        return (part for section in self.sections for part in section.parts)

    def report(self) -> Report:
        """The page."""
        report = Report(self.title, self.lead)
        report.tiles(self.tiles)
        for note in self.notes:
            report.note(note)
        for section in self.sections:
            report.heading(section.heading)
            report.paragraph(section.text)
            for part in section.parts:
                if isinstance(part, Figure):
                    report.figure(part.drawing, part.caption, wide=part.drawing.size[0] > 7)
                elif isinstance(part, Table):
                    report.table(part.head, part.shown, part.ours)
                else:
                    report.markup(part)
        report.footer(self.footer)
        return report

    def write(self, folder: str | Path) -> list[Path]:
        """report.html, PNG, SVG and CSV of every figure, CSV of every table; returns the files.

        All are made in a folder of their own first: after an error or Ctrl-C `folder` is as it was. Files that an
        earlier analysis left there and this one doesn't have are removed.
        """
        with staging(folder) as made:
            drawings = progress(self.figures.items(), "drawing", len(self.figures))
            names: list[str] = []
            for name, drawing in drawings:
                names += drawing.save_all(made, name)
                drawing.png(DARK)  # of the report
            for part in self._parts():
                if isinstance(part, Table):
                    save_csv(part.rows, made / f"{part.name}.csv")
                    names.append(f"{part.name}.csv")
            self.report().write(made / REPORT)
            names.append(REPORT)
            with atomic_write(made / INDEX, "w") as file:
                file.write(json.dumps({"title": self.title, "notes": self.notes, "files": names}, indent=2) + "\n")
        return [Path(folder) / name for name in [*names, INDEX]]


@contextmanager
def staging(folder: str | Path) -> Iterator[Path]:
    """A new folder within `folder`, whose files move to `folder` when the block ends without an error."""
    folder = Path(folder)
    with _workspace(folder) as inner:
        yield inner
        before = _earlier(folder)
        files = sorted(inner.iterdir(), key=lambda path: (path.name == REPORT, path.name))
        for file in files:
            os.replace(file, folder / file.name)
        for name in before - {file.name for file in files}:
            (folder / name).unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """OSError if no file can be made in `folder`, before minutes of work; leaves nothing behind."""
    try:
        with _workspace(Path(folder)):
            pass
    except OSError as error:
        raise OSError(f"{folder}: cannot write there ({error.strerror}); choose another folder with --out") from None


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder within `folder` for a while; folders made for it go too if they stay empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        inner = Path(tempfile.mkdtemp(prefix=".analysis.", dir=folder))
        try:
            yield inner
        finally:
            shutil.rmtree(inner, ignore_errors=True)
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _earlier(folder: Path) -> set[str]:
    """Names of files that an earlier analysis made in the folder."""
    try:
        names = json.loads((folder / INDEX).read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if isinstance(name, str) and Path(name).name == name}
