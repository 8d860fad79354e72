"""Sizes of blocks, which Triton wants as powers of two."""

from __future__ import annotations


def padded(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()
