"""Powers of the number of tokens: fitted, and where two curves cross."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

Points = Sequence[tuple[int, float]]


def exponent(points: Points) -> float | None:
    """The power p of value = c N^p, by least squares of the logarithms; None with fewer than three points."""
    if len(points) < 3:
        return None
    x, y = [log(n) for n, _ in points], [log(value) for _, value in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread


def tail(points: Points, span: int = 16) -> Points:
    """The points within a factor `span` of the largest N: where a law of growth shows, beyond fixed costs."""
    points = sorted(points)
    return [point for point in points if point[0] * span >= points[-1][0]]


def crossing(ours: Points, theirs: Points) -> float | None:
    """The N at which `theirs` stops being faster, interpolated between logarithms; None if it never is, or always."""
    a, b = dict(ours), dict(theirs)
    common = sorted(set(a) & set(b))
    for low, high in zip(common, common[1:]):
        before, after = log(b[low] / a[low]), log(b[high] / a[high])  # below zero: theirs is faster
        if before < 0 <= after:
            return exp(log(low) + (log(high) - log(low)) * before / (before - after))
    return None
