"""Confidence intervals of a proportion."""

import math
from collections.abc import Sequence

import numpy as np

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


def share_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the mean of values from 0 to 1 and its 95% interval; ties are halves.

    Wilson's where all are 0 or 1. Else the normal one with a 0 and a 1 added, as Agresti and Caffo (2000) do for
    proportions: it has a width where all are ties, and few ties are no evidence by being alike.
    """
    if set(values) <= {0.0, 1.0}:
        return wilson_interval(int(sum(values)), len(values))
    found = np.array([*values, 0.0, 1.0])
    half = Z * float(found.std(ddof=1)) / math.sqrt(len(found))
    middle = float(found.mean())
    return float(np.mean(values)), max(0.0, middle - half), min(1.0, middle + half)
