"""Laws that finished runs leave possible: draws from the posterior, by many walkers at once.

    p(law | losses)  ~  ( sum_i (log L_i - log L(N_i, D_i))^2 )^(-(n - 1) / 2)

That is normal noise of the log losses with its size integrated out, and a flat prior over the floor E >= 0, the
logarithms of both terms at the middle of the runs, and exponents between 0 and `STEEPEST`. The power would be n / 2 by
1 / sigma alone; one degree of freedom less makes intervals cover where runs are few.

Goodman & Weare 2010, Ensemble samplers with affine invariance, section 3: a walker moves on the line through another
one, so that no step size has to fit the long narrow valley of these laws.
"""

from __future__ import annotations

import numpy as np

STEEPEST = 1.5
WALKERS, TURNS = 128, 600  # the first half of the turns is not kept
WIDEST = 2.0  # a move leads to between half and twice the distance
SPREAD = 0.02  # of the walkers at the start, relative
LEAST = 1e-12  # mean square of residuals, for losses without noise


def draw(x: np.ndarray, y: np.ndarray, start: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` draws (count, 5): log terms at x = 0, exponents, floor.

    Args:
        x: (2, n) logarithms of both sizes, centred; y: (n,) log losses.
        start: (5,) a point near the best.
    """

    def density(at: np.ndarray) -> np.ndarray:
        inside = (at[:, 4] >= 0) & (at[:, 2:4] > 0).all(1) & (at[:, 2:4] < STEEPEST).all(1) & (at[:, :2] < 50).all(1)
        safe = np.where(inside[:, None], at, start)
        z = safe[:, :2, None] - safe[:, 2:4, None] * x
        square = np.square(np.log(np.exp(z).sum(1) + safe[:, 4:]) - y).sum(1)
        return np.where(inside, -(y.size - 1) / 2 * np.log(square + LEAST * y.size), -np.inf)

    start = np.concatenate([start[:2], np.clip(start[2:4], 0.05, STEEPEST - 0.05), start[4:]])
    place = start * (1 + SPREAD * generator.standard_normal((WALKERS, 5)))
    place[:, 4] = np.abs(place[:, 4])
    value, half, kept = density(place), WALKERS // 2, []
    every = min(max(1, TURNS * WALKERS // count // 4), TURNS // 2)
    for turn in range(TURNS):
        for one, two in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            other = place[two][generator.integers(half, size=half)]
            factor = ((WIDEST - 1) * generator.random(half) + 1) ** 2 / WIDEST
            moved = other + factor[:, None] * (place[one] - other)
            found = density(moved)
            better = np.log(generator.random(half)) < 4 * np.log(factor) + found - value[one]
            place[one] = np.where(better[:, None], moved, place[one])
            value[one] = np.where(better, found, value[one])
        if turn >= TURNS // 2 and (turn - TURNS // 2) % every == 0:
            kept.append(place.copy())
    return generator.permutation(np.concatenate(kept))[:count]
