"""The measured sections of docs/results.md, each between its own markers."""

from __future__ import annotations

import re
from pathlib import Path

from tost.files import atomic_write

PAGE = Path("docs") / "results.md"
END = "<!-- end -->"


def marker(group: str, device: str) -> str:
    """The line before a section."""
    return f"<!-- bench {group} {device} -->"


def results_page(group: str, device: str, start: Path | None = None) -> Path:
    """docs/results.md of the checkout around `start` (the working directory).

    Raises ValueError if there is none, or it has no such section.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        page = folder / PAGE
        if page.is_file():
            _section(page, group, device)
            return page
    raise ValueError(f"--record expects to run inside a checkout of tost, got {here}; leave it out, or change there")


def replace_section(page: Path, group: str, device: str, text: str) -> None:
    """Put `text` between the markers of a group; nothing else changes."""
    before, after = _section(page, group, device)
    with atomic_write(page, "w") as file:
        file.write(f"{before}\n\n{text.strip()}\n\n{after}")


def _section(page: Path, group: str, device: str) -> tuple[str, str]:
    """The page up to the end of the first marker, and from the start of the second."""
    whole, start = page.read_text(encoding="utf-8"), marker(group, device)
    found = re.search(re.escape(start) + r"(.*?)" + re.escape(END), whole, re.DOTALL)
    if found is None or "<!-- bench " in found.group(1):
        raise ValueError(f"--record expects the lines {start} and {END} in {page}, got none or one of them; add them")
    return whole[: found.start(1)], whole[found.end(1) :]
