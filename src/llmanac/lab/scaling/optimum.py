"""The best size for a compute by the three approaches of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556).

    envelope     over runs with several lengths: at each compute the size of the least interpolated loss
    IsoFLOP      over runs of one compute: the minimum of a parabola of the log loss over log N
    parametric   the law of `law.py`: N = G (C / 6)^a with a = beta / (alpha + beta)

The first two fit log N = log g + a log C to the sizes they found; what they cannot find is said, not guessed. The
frontier, the runs with no better one of less compute, gives the exponent of L = K / C^alpha with and without a floor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.lab.scaling.law import Fit, PowerLaw, fit_power
from llmanac.lab.scaling.points import Points, groups

SAME_SIZE, SAME_COMPUTE = 0.01, 0.15  # digitised numbers of one size differ, and runs of one compute end near it
STEPS = 200  # compute values of the envelope
LEAST_POINTS = 4  # of a parabola
RESAMPLES = 200


@dataclass(frozen=True)
class Optimum:
    """N = factor * C^exponent, with a 95% interval of the exponent; `why` it could not be found, else empty."""

    approach: str
    exponent: float | None = None
    low: float | None = None
    high: float | None = None
    factor: float | None = None
    found: int = 0
    why: str = ""

    def size(self, flops: float) -> float | None:
        """The best number of parameters."""
        return None if self.factor is None or self.exponent is None else self.factor * flops**self.exponent


def approaches(points: Points, fit: Fit) -> list[Optimum]:
    """The three of them."""
    if min(fit.law.alpha, fit.law.beta) <= 0:
        parametric = Optimum("parametric", found=fit.points, why="the loss does not fall with one of the sizes")
        return [_line("envelope", points, envelope), _line("IsoFLOP", points, isoflop), parametric]
    low, high = fit.interval(lambda law: law.size_exponent) or (None, None)
    a = fit.law.size_exponent
    factor = fit.law.best(6.0)[0] / 6**a
    parametric = Optimum("parametric", a, low, high, factor, fit.points)
    return [_line("envelope", points, envelope), _line("IsoFLOP", points, isoflop), parametric]


def envelope(points: Points) -> np.ndarray:
    """(k, 2): compute and best size, where at least three sizes have a loss and the best is not the outermost."""
    curves = []
    for group in groups(points.parameters, SAME_SIZE):
        order = group[np.argsort(points.tokens[group])]
        if len(order) >= 2:
            curves.append((points.parameters[order].mean(), np.log(points.flops[order]), np.log(points.loss[order])))
    if len(curves) < 3:
        return np.empty((0, 2))
    grid = np.linspace(min(c[0] for _, c, _ in curves), max(c[-1] for _, c, _ in curves), STEPS)
    losses = np.array([np.interp(grid, c, loss, left=np.inf, right=np.inf) for _, c, loss in curves])
    out = []
    for at, column in enumerate(losses.T):
        there = np.flatnonzero(np.isfinite(column))
        if len(there) >= 3:
            best = there[column[there].argmin()]
            if best not in (there[0], there[-1]):
                out.append((np.exp(grid[at]), curves[best][0]))
    return np.array(out).reshape(-1, 2)


def isoflop(points: Points) -> np.ndarray:
    """(k, 2): compute and best size, where a parabola over at least `LEAST_POINTS` sizes has its minimum inside."""
    out = []
    for group in groups(points.flops, SAME_COMPUTE):
        x, y = np.log(points.parameters[group]), np.log(points.loss[group])
        if len({*np.round(x, 2)}) < LEAST_POINTS:
            continue
        square, line, _ = np.polyfit(x - x.mean(), y, 2)
        if square > 0:
            best = -line / (2 * square) + x.mean()
            if x.min() <= best <= x.max():
                out.append((np.exp(np.log(points.flops[group]).mean()), np.exp(best)))
    return np.array(out).reshape(-1, 2)


def _says_slope(found: np.ndarray) -> bool:
    """Whether best sizes differ over a span of compute; were all the same, the slope would be 0 by construction."""
    return len(found) >= 2 and np.ptp(np.log(found[:, 0])) >= 0.5 and len(np.unique(found[:, 1])) > 1


def _line(name: str, points: Points, find: Callable[[Points], np.ndarray]) -> Optimum:
    found = find(points)
    if not _says_slope(found):
        needs = (
            "three sizes with runs of several lengths" if name == "envelope"
            else f"two budgets, {LEAST_POINTS} sizes at each"
        )  # fmt: skip
        return Optimum(name, found=len(found), why=f"needs {needs}, with two different best ones inside")
    a, g = np.polyfit(np.log(found[:, 0]), np.log(found[:, 1]), 1)
    generator, slopes = numpy_generator(0, name), []
    for _ in range(RESAMPLES):
        at = generator.integers(0, len(points.loss), len(points.loss))
        again = find(Points(points.parameters[at], points.tokens[at], points.loss[at]))
        if _says_slope(again):
            slopes.append(np.polyfit(np.log(again[:, 0]), np.log(again[:, 1]), 1)[0])
    if len(slopes) < RESAMPLES // 2:
        return Optimum(name, float(a), None, None, float(np.exp(g)), len(found))
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Optimum(name, float(a), float(low), float(high), float(np.exp(g)), len(found))


def frontier(points: Points) -> np.ndarray:
    """(k, 2): compute and loss of the runs with no better one of at most their compute."""
    order = np.lexsort((points.loss, points.flops))
    loss = points.loss[order]
    best = loss < np.concatenate([[np.inf], np.minimum.accumulate(loss)[:-1]])
    return np.stack([points.flops[order][best], loss[best]], 1)


def compute_laws(points: Points) -> tuple[PowerLaw | None, PowerLaw | None]:
    """L over the compute of the frontier: with the floor, and without it; None where it has too few runs."""
    edge = frontier(points)

    def one(floor: bool) -> PowerLaw | None:
        try:
            return fit_power(edge[:, 0], edge[:, 1], floor=floor)
        except DataError:
            return None

    return one(True), one(False)
