"""How sure a measured share or mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson_interval(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval (95% by default) of a share right / total: (low, high) within [0, 1].

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Source: E. B. Wilson, JASA 22 (1927). It stays within [0, 1] and has width even when every answer is right.
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"wilson_interval expects 0 <= right <= total and total > 0, got {right} of {total}")
    share = right / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def ratio_interval(totals: Sequence[float], counts: Sequence[float], z: float = 1.959964) -> tuple[float, float] | None:
    """Interval (95% by default) of sum(totals) / sum(counts) over documents, None for fewer than ten of them.

        r +- z sqrt( n / (n - 1) sum_i (t_i - r c_i)^2 ) / sum_i c_i

    totals, counts: of each document, such as nats and tokens. Documents are drawn independently; tokens are not.
    Source: W. G. Cochran, Sampling Techniques (1977), section 6.3, without the correction for finite populations.
    """
    n = len(counts)
    if n < 10:
        return None
    ratio = sum(totals) / sum(counts)
    squares = sum((t - ratio * c) ** 2 for t, c in zip(totals, counts))
    half = z * math.sqrt(n / (n - 1) * squares) / sum(counts)
    return ratio - half, ratio + half
