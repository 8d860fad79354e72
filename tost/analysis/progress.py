"""Bars for what takes longer than two seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm


def progress(items: Iterable, what: str, total: int | None = None) -> Iterator:
    """`items`, with a bar on a terminal."""
    return iter(bar(what, total, items))


def bar(what: str, total: int | None = None, items: Iterable | None = None) -> Any:
    """tqdm's bar, on a terminal only, from the third second on, gone when it is done."""
    return tqdm(items, desc=what, total=total, delay=2, leave=False, disable=None)
