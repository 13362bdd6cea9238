"""Confidence intervals of a proportion."""

from __future__ import annotations

import math

from llmanac.core.errors import DataError

Z = 1.959963984540054  # the 97.5% point of the normal distribution


def wilson_interval(hits: int, total: int) -> tuple[float, float, float]:
    """`(proportion, low, high)` of `hits` out of `total`, with Wilson's 95% score interval (Wilson 1927).

    Raises:
        DataError: `total` is 0, or `hits` is not between 0 and `total`.
    """
    if not 0 <= hits <= total or not total:
        raise DataError(f"wilson_interval: {hits} of {total} is not a proportion")
    p, z2 = hits / total, Z * Z
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    return p, max(0.0, centre - half), min(1.0, centre + half)
