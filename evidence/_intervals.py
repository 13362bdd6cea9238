"""Confidence intervals of the difference of two proportions."""

import math

from llmanac.metrics.statistics.intervals import wilson_interval


def newcombe_interval(hits: int, total: int, other_hits: int, other_total: int) -> tuple[float, float, float]:
    """`(difference, low, high)` of two independent proportions, the first less the second, with a 95% interval.

    Newcombe's hybrid score interval (Newcombe 1998, method 10); unlike a bootstrap it has a width where all are hits.

    Raises:
        DataError: as `wilson_interval`, of either proportion.
    """
    (p, low, high), (q, least, most) = wilson_interval(hits, total), wilson_interval(other_hits, other_total)
    apart = p - q
    return apart, apart - math.hypot(p - low, most - q), apart + math.hypot(high - p, q - least)
