"""The levels that four bits have: evenly spaced and NF4's, over a normal distribution of weights."""

import math
from statistics import NormalDist

from llmanac.guide.figures._draw import Drawing

OUTERMOST = 0.9677083  # the quantile of NF4's last levels, as `quant/nf4.py` has it


def _half(count: int) -> list[float]:
    """Quantiles of a normal distribution from the outermost to zero, zero left out."""
    return [NormalDist().inv_cdf(OUTERMOST + i * (0.5 - OUTERMOST) / count) for i in range(count)]


LEVELS = tuple(level / _half(8)[0] for level in sorted([*(-x for x in _half(7)), 0.0, *_half(8)]))
DEVIATION = 0.35  # of the weights, over the largest
EVEN = tuple(-1 + i / 7.5 for i in range(16))


def _error(levels: tuple[float, ...]) -> float:
    """Mean squared error of rounding a normal variable of deviation 0.35 that is cut at 1, by summing a fine grid."""
    total = weight = 0.0
    for i in range(-2000, 2001):
        x = i / 2000
        density = math.exp(-0.5 * (x / 0.35) ** 2)
        total += density * min((x - level) ** 2 for level in levels)
        weight += density
    return total / weight


EXAMPLE = {"deviation": DEVIATION, "even": _error(EVEN), "nf4": _error(LEVELS), "levels": len(LEVELS)}


def draw(made: Drawing) -> None:
    """The density and two rows of ticks."""
    made.plot(60, 20, 480, 120, [("weights", lambda x: math.exp(-0.5 * (x / 0.35) ** 2), "c")], (-1.0, 1.0), (0.0, 1.0))
    for row, (name, ticks, kind) in enumerate((("even", EVEN, "b"), ("NF4", LEVELS, "a"))):
        y = 175 + 38 * row
        made.text(50, y + 14, name, "end", "small")
        for level in ticks:
            made.line((300 + 240 * level, y), (300 + 240 * level, y + 22), kind=f"curve {kind}")
