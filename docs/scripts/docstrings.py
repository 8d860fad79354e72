"""For the API pages: every argument that a docstring describes becomes an item of a list."""

from __future__ import annotations

import re

import griffe

ITEM = re.compile(r"(?:`?[a-zA-Z_]\w*`?(?:, `?[a-zA-Z_]\w*`?)*: |Returns |Raises |Yields )\S")


class Arguments(griffe.Extension):
    """Lists arguments of every docstring; equations, which are indented, stay as they are."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    """`text` with the paragraphs that describe arguments as lists; the first paragraph, the summary, stays."""
    first, *rest = re.split(r"\n[ \t]*\n", text)
    return "\n\n".join([first, *map(itemised, rest)])


def itemised(paragraph: str) -> str:
    """A list, if a line of the paragraph begins with an argument: an item for every sentence that begins a line.

    The house writes "x: [B, N, C], the tokens.  mask: [B, N] bool.": two spaces end an item within a line.
    """
    lines = paragraph.splitlines()
    if paragraph.startswith(" ") or not any(map(ITEM.match, lines)):
        return paragraph
    parts: list[str] = []
    for line in lines:
        pieces = re.split(r"(?<=[.)])  (?=\S)", line)
        if parts and not ITEM.match(line) and not parts[-1].endswith((".", ":")):
            parts[-1] += "\n  " + pieces.pop(0)
        parts += pieces
    start = next(i for i, part in enumerate(parts) if ITEM.match(part))
    items = [f"- {emphasised(part)}" for part in parts[start:]]
    return "\n\n".join(filter(None, ["\n".join(parts[:start]), "\n".join(items)]))


def emphasised(item: str) -> str:
    """Names of arguments as code, "Returns" and "Raises" bold."""
    head, colon, tail = item.partition(": ")
    if ITEM.match(item) and item.split()[0] in ("Returns", "Raises", "Yields"):
        return re.sub(r"^(\w+)", r"**\1**", item)
    if not ITEM.match(item):
        return item
    return ", ".join(f"`{name.strip('`')}`" for name in head.split(", ")) + colon + tail
