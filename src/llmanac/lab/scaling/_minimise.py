"""BFGS for many small problems at once, each with its own start: the matrices are 5 x 5, the batch is thousands.

The search takes the step of the weak Wolfe conditions by bisection, which also works where the second derivative jumps
(Huber losses): Lewis & Overton 2013, Nonsmooth optimization via quasi-Newton methods, algorithm 2.6.

Laws that finished runs leave possible: draws from the posterior, by many walkers at once.

    p(law | losses)  ~  ( sum_i (log L_i - log L(N_i, D_i))^2 )^(-(n - 1) / 2)

That is normal noise of the log losses with its size integrated out, and a flat prior over the floor E >= 0, the
logarithms of both terms at the middle of the runs, and exponents between 0 and `STEEPEST`. The power would be n / 2 by
1 / sigma alone; one degree of freedom less makes intervals cover where runs are few.

Goodman & Weare 2010, Ensemble samplers with affine invariance, section 3: a walker moves on the line through another
one, so that no step size has to fit the long narrow valley of these laws.
"""

from collections.abc import Callable

import numpy as np

Evaluate = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
FALL, CURVE = 1e-4, 0.9  # of the Wolfe conditions
HALVINGS = 30
ITERATIONS = 300
TOLERANCE = 1e-7  # a descent ends where its gradient's largest number is below, or no step is found


def minimise(evaluate: Evaluate, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The end points (S, P) and values (S,) of a descent from each of `starts` (S, P).

    Args:
        evaluate: of points (s, P) and the numbers (s,) of their problems, the values (s,) and gradients (s, P).
    """
    x = starts.astype(np.float64).copy()
    every, size = np.arange(len(x)), x.shape[1]
    value, slope = evaluate(x, every)
    inverse = np.broadcast_to(np.eye(size), (len(x), size, size)).copy()
    active = every[np.abs(slope).max(1) > TOLERANCE]
    for turn in range(ITERATIONS):
        if not len(active):
            break
        direction = -np.einsum("sij,sj->si", inverse[active], slope[active])
        down = np.einsum("si,si->s", direction, slope[active])
        wrong = ~(down < 0)
        direction[wrong] = -slope[active][wrong]
        inverse[active[wrong]] = np.eye(size)
        down[wrong] = -np.square(slope[active][wrong]).sum(1)
        if turn == 0:
            direction /= np.maximum(1.0, np.linalg.norm(direction, axis=1))[:, None]
            down = np.einsum("si,si->s", direction, slope[active])
        moved, found, steep, ok = _search(evaluate, x[active], active, value[active], direction, down)
        step, change = moved - x[active], steep - slope[active]
        curve = np.einsum("si,si->s", step, change)
        good = ok & (curve > 0)
        at = active[good]
        if len(at):
            s, y, rho = step[good], change[good], 1 / curve[good]
            if turn == 0:
                inverse[at] *= (curve[good] / np.square(y).sum(1))[:, None, None]
            left = np.eye(size) - rho[:, None, None] * s[:, :, None] * y[:, None, :]
            inverse[at] = left @ inverse[at] @ left.transpose(0, 2, 1) + rho[:, None, None] * s[:, :, None] * s[:, None]
        gain = value[active] - found
        x[active], value[active], slope[active] = moved, found, steep
        live = ok & (np.abs(steep).max(1) > TOLERANCE) & (gain > 1e-14 * np.abs(found))
        active = active[live]
    return x, value


def _search(
    evaluate: Evaluate, x: np.ndarray, at: np.ndarray, value: np.ndarray, direction: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, values, gradients after a step of each, and whether one was found."""
    low, high, step = np.zeros(len(x)), np.full(len(x), np.inf), np.ones(len(x))
    best, least, steep = x.copy(), value.copy(), np.zeros_like(x)
    ok, open_ = np.zeros(len(x), np.bool_), np.arange(len(x))
    for _ in range(HALVINGS):
        tried = x[open_] + step[open_, None] * direction[open_]
        found, slope = evaluate(tried, at[open_])
        falls = found <= value[open_] + FALL * step[open_] * down[open_]
        flat = np.einsum("si,si->s", slope, direction[open_]) >= CURVE * down[open_]
        keep = open_[falls]  # the last point that fell enough is taken where no other is found
        best[keep], least[keep], steep[keep], ok[keep] = tried[falls], found[falls], slope[falls], True
        high[open_[~falls]] = step[open_[~falls]]
        low[open_[falls & ~flat]] = step[open_[falls & ~flat]]
        open_ = open_[~(falls & flat)]
        if not len(open_):
            break
        bounded = np.isfinite(high[open_])
        step[open_] = np.where(bounded, (low[open_] + np.where(bounded, high[open_], 0)) / 2, 2 * low[open_])
    if not ok.all():
        steep[~ok] = evaluate(best[~ok], at[~ok])[1]
    return best, least, steep, ok


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
