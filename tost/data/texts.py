"""Documents as strings: files and folders, JSON lines, the standard library's own source."""

from __future__ import annotations

import glob
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

SUFFIXES = {
    ".txt", ".md", ".rst", ".tex", ".html", ".xml", ".csv", ".py", ".pyi", ".js", ".ts", ".c", ".h", ".cc", ".cpp",
    ".hpp", ".cu", ".java", ".go", ".rs", ".rb", ".sh", ".jl", ".r", ".lua", ".sql", ".json", ".jsonl", ".yaml",
}  # fmt: skip
LARGE = 256 * 2**20  # more bytes than this are tokenised into a cache on the disk
# Tests, other people's packages, and what programs wrote: code tables and the help of pydoc.
NOT_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"}


def read_documents(options: Any) -> Iterator[str]:
    """The documents of options.source stdlib or files, in order of their paths.

    Raises ValueError naming the file that is not UTF-8 (and where), or is no JSON lines.
    """
    for path in text_files(options):
        if path.suffix == ".jsonl":
            yield from _json_lines(path, options.column)
        else:
            yield from sections(read_text(path), options.section)


def text_files(options: Any) -> list[Path]:
    """The files of options.source stdlib or files."""
    if options.source == "stdlib":
        return standard_library()
    if options.path is None:
        raise ValueError(
            "this recipe reads text from files: set --data.path to a file, a folder or a pattern ('*.txt')"
        )
    path = Path(options.path)
    if path.is_dir():
        found = sorted(_below(path, SUFFIXES))
        if not found:
            raise ValueError(f"--data.path {path}: no text file in it (looked for {', '.join(sorted(SUFFIXES))})")
        return found
    found = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(options.path, recursive=True))
    found = [p for p in found if p.is_file()]
    if not found:
        raise ValueError(f"--data.path {options.path}: no such file or folder")
    return found


def standard_library() -> list[Path]:
    """Python's own library, as source, on this machine."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(_below(root, {".py"}, NOT_SOURCE)) if root.is_dir() else []
    if not found:
        raise ValueError(f"{root}: no source of the standard library there; set --data.source files and --data.path")
    return found


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, every byte of it; ValueError with the place of the first byte that is not."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}; convert it (iconv -t UTF-8) or "
            "leave it out of --data.path"
        ) from None


def sections(text: str, size: int) -> Iterator[str]:
    """`text` whole (size 0), or cut at line ends into pieces of about `size` characters."""
    if not size:
        yield text
        return
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin + size)
        end = len(text) if end < 0 else end + 1
        yield text[begin:end]
        begin = end


def large(options: Any) -> bool:
    """Whether the files hold more than LARGE bytes."""
    return sum(path.stat().st_size for path in text_files(options)) > LARGE


def place(options: Any) -> str:
    """How an error calls the source."""
    return "the standard library" if options.source == "stdlib" else f"--data.path {options.path}"


def _json_lines(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield _text_of(json.loads(line), column)
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(
                f'{path}, line {number}: expected a JSON object such as {{"{column}": "..."}}; --data.column names the '
                "field"
            ) from None


def _text_of(row: Any, column: str) -> str:
    if not isinstance(row, dict) or not isinstance(row[column], str | None):
        raise TypeError
    return row[column] or ""


def _lines(path: Path) -> Iterable[str]:
    return read_text(path).split("\n")


def _below(folder: Path, suffixes: set[str], skipped: Set[str] = frozenset()) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in skipped and not f.startswith("."))
        yield from (Path(base, name) for name in names if os.path.splitext(name)[1].lower() in suffixes)
