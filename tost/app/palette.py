"""Colours of the page: those of every figure and of the report."""

from __future__ import annotations

from pathlib import Path

from tost.analysis.style import DARK, LIGHT, Theme

HEADS = LIGHT.series
SOFT = ("#f6f7f9", "#1e2127")  # the ground of boxes, by day and by night


def rgb(colour: str) -> tuple[int, int, int]:
    """(r, g, b) of "#rrggbb"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def head_colour(head: int) -> str:
    """The colour of a head, over and over again where there are many."""
    return HEADS[head % len(HEADS)]


def variables(theme: Theme) -> str:
    """A theme as CSS variables; --head-0, --head-1, ... follow the theme too."""
    series = " ".join(f"--head-{i}: {colour};" for i, colour in enumerate(theme.series))
    return f"--ground: {theme.ground}; --ink: {theme.text}; --quiet: {theme.quiet}; --line: {theme.grid}; {series}"


def style() -> str:
    """The page's style sheet: the variables by day and by night, then page.css."""
    rules = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    day, night = f"{variables(LIGHT)} --soft: {SOFT[0]};", f"{variables(DARK)} --soft: {SOFT[1]};"
    return f":root {{ {day} }}\n.dark {{ {night} }}\n{rules}"
