"""The law L(N, D) = E + A / N^alpha + B / D^beta, fitted to finished runs.

    minimise sum_i Huber_delta( log(E + A / N_i^alpha + B / D_i^beta) - log L_i ),      delta = 1e-3

The sum is written as logsumexp(log E, log A - alpha log N, log B - beta log D), and minimised from a grid of starts by
BFGS over (log E, log A, log B, alpha, beta) with N and D centred, so that A and alpha do not move together. The valley
around the minimum is flat: loose tolerances stop far from it. N counts every parameter, or those outside embeddings;
the two give different laws, so a fit says which it used. With one variable (compute) and with or without the floor E
the same code fits L = E + K / C^alpha.

Intervals are those of laws drawn from the posterior (`_minimise.py`), which takes the noise of log losses to be normal
and equal; fewer than `FEWEST` runs give none. tools/scaling_coverage.py counts how often they hold the numbers of a
planted law.

Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556), approach 3; Besiroglu et al. 2024
(https://arxiv.org/abs/2404.10102), which repeats it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.lab.scaling._minimise import draw, minimise

DELTA = 1e-3
SCALE = 1e4  # of the objective, which is so small that a gradient of 1e-7 would be far from the minimum
EXPONENTS = (0.1, 0.3, 0.5, 0.9)
FLOORS = (0.2, 0.5, 0.8, 0.95)  # of the smallest loss
SHARES = (0.2, 0.5, 0.8)  # of what is above the floor, that the first term starts with
FEWEST = 10  # runs that intervals are given for: below, they do not hold the truth as often as they say
LEVEL = 0.95


@dataclass(frozen=True)
class Law:
    """E, A, B, alpha, beta; losses are nats a token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """The loss of runs of these sizes."""
        return self.E + self.A / np.power(parameters, self.alpha) + self.B / np.power(tokens, self.beta)

    @property
    def size_exponent(self) -> float:
        """a of N = G (C / 6)^a, the best size for a compute C = 6 N D; that of D is 1 - a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def compute_exponent(self) -> float:
        """The exponent with which the best loss of a compute nears E."""
        return self.alpha * self.beta / (self.alpha + self.beta)

    def best(self, flops: float) -> tuple[float, float]:
        """N and D of the least loss for a compute 6 N D; NaN where the loss does not fall with one of them."""
        if min(self.alpha, self.beta, self.A, self.B) <= 0:
            return math.nan, math.nan
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        size = g * (flops / 6) ** self.size_exponent
        return size, flops / 6 / size


@dataclass(frozen=True)
class Fit:
    """A law and how sure it is.

    Attributes:
        objective: the sum that was minimised.
        samples: (R, 5) laws of the posterior, in the order of `NAMES`; residuals: log loss less the law's, widened.
        counted: what N counts, "total" or "non-embedding".
    """

    law: Law
    objective: float
    points: int
    counted: str
    samples: np.ndarray = field(repr=False)
    residuals: np.ndarray = field(repr=False)

    def interval(self, of: Any, level: float = LEVEL) -> tuple[float, float] | None:
        """Of a function of a law; None for fewer than `FEWEST` runs."""
        if self.points < FEWEST:
            return None
        values = [of(Law(*row)) for row in self.samples]
        low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def error(self, name: str) -> float | None:
        """Standard error of a coefficient; None for fewer than `FEWEST` runs."""
        return None if self.points < FEWEST else float(self.samples[:, NAMES.index(name)].std(ddof=1))

    def predict(
        self, parameters: float, tokens: float, level: float = LEVEL
    ) -> tuple[float, tuple[float, float] | None]:
        """The loss of a run that is not there yet, and the interval in which one such run lies (see `interval`)."""
        value = float(self.law.loss(parameters, tokens))
        if self.points < FEWEST:
            return value, None
        generator = numpy_generator(0, "prediction")
        logs = np.log([Law(*row).loss(parameters, tokens) for row in self.samples])
        logs = np.repeat(logs, 20) + generator.choice(self.residuals, 20 * len(logs))
        low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2]))
        return value, (float(low), float(high))

    def as_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        law = {name: getattr(self.law, name) for name in NAMES}
        return {
            "law": law, "objective": self.objective, "points": self.points, "counted": self.counted,
            "intervals": {name: self.interval(lambda one, n=name: getattr(one, n)) for name in NAMES},
            "errors": {name: self.error(name) for name in NAMES},
            "samples": self.samples.tolist(), "residuals": self.residuals.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Fit:
        """Raises DataError where the data is not that of a fit."""
        try:
            law = Law(**{name: float(data["law"][name]) for name in NAMES})
            samples, residuals = np.array(data["samples"], float), np.array(data["residuals"], float)
            if samples.ndim != 2 or samples.shape[1] != len(NAMES) or len(samples) < 2 or residuals.ndim != 1:
                raise ValueError("samples")
            if not (np.isfinite(samples).all() and np.isfinite(residuals).all() and len(residuals)):
                raise ValueError("samples")
            if not all(math.isfinite(getattr(law, name)) for name in NAMES):
                raise ValueError("law")
            return cls(law, float(data["objective"]), int(data["points"]), str(data["counted"]), samples, residuals)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where}: is no fit ({error}); `llmanac scaling fit RUNS --output {where}` makes one"
            ) from None


NAMES = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class PowerLaw:
    """L = E + K / C^alpha, with E = 0 where no floor was fitted."""

    E: float
    K: float
    alpha: float
    objective: float


def fit_law(
    parameters: Sequence[float] | np.ndarray, tokens: Sequence[float] | np.ndarray, loss: Sequence[float] | np.ndarray,
    *, counted: str = "total", samples: int = 1000, seed: int = 0,
) -> Fit:  # fmt: skip
    """Fit the law to runs, with so many samples of laws for the intervals.

    Raises:
        DataError: fewer than six runs, or runs that do not vary in both sizes.
    """
    logs = np.log([np.asarray(parameters, float), np.asarray(tokens, float)])
    y = np.log(np.asarray(loss, float))
    if y.size <= len(NAMES):
        raise DataError(f"runs: {y.size} are too few for a law of 5 numbers; give at least 6, better 20")
    for name, values in zip(("parameters", "tokens"), logs, strict=True):
        if np.ptp(values) < 0.1:
            raise DataError(f"runs: all have about the same number of {name}; the law needs runs of several sizes")
    terms = _Terms(logs, floor=True)
    best, objective = terms.fit(y)
    fitted = terms.logs_of(best[None])[0]
    residuals = (y - fitted) * np.sqrt(y.size / (y.size - len(NAMES)))
    residuals = residuals - np.median(residuals)
    drawn = draw(terms.x, y, np.append(best[:4], np.exp(best[4])), samples, numpy_generator(seed, "posterior"))
    factors = np.exp(np.clip(drawn[:, :2] + drawn[:, 2:4] * terms.middle, -700, 700))
    laws = np.concatenate([drawn[:, 4:], factors, drawn[:, 2:4]], 1)
    return Fit(Law(*terms.law(best)), objective, y.size, counted, laws, residuals)


def fit_power(compute: Sequence[float] | np.ndarray, loss: Sequence[float] | np.ndarray, *, floor: bool) -> PowerLaw:
    """L = E + K / C^alpha, with the floor E or without.

    Raises:
        DataError: too few points.
    """
    y = np.log(np.asarray(loss, float))
    if y.size < 3 + floor:
        raise DataError(f"compute: {y.size} points are too few for a power law; give at least {3 + floor}")
    terms = _Terms(np.log([np.asarray(compute, float)]), floor=floor)
    best, objective = terms.fit(y)
    e, k, alpha = terms.law(best)
    return PowerLaw(e, k, alpha, objective)


class _Terms:
    """logsumexp over a floor and one power of each variable; x (k, n) are logs of the variables."""

    def __init__(self, x: np.ndarray, *, floor: bool) -> None:
        self.middle = x.mean(1)
        self.x, self.floor, self.count = x - self.middle[:, None], floor, len(x)

    def logs_of(self, theta: np.ndarray) -> np.ndarray:
        """(s, n)"""
        z = self._terms(theta)
        top = z.max(1)
        out: np.ndarray = top + np.log(np.exp(z - top[:, None]).sum(1))
        return out

    def _terms(self, theta: np.ndarray) -> np.ndarray:
        k = self.count
        z = theta[:, :k, None] - theta[:, k : 2 * k, None] * self.x
        if not self.floor:
            return z
        return np.concatenate([z, np.broadcast_to(theta[:, 2 * k :, None], (*theta[:, :1].shape, z.shape[2]))], 1)

    def objective(self, theta: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (s,) and gradients (s, P) of `SCALE` times the sum, for y (s, n) or (1, n)."""
        z = self._terms(np.clip(theta, -200, 200))
        top = z.max(1, keepdims=True)
        share = np.exp(z - top)
        total = share.sum(1, keepdims=True)
        residual = (top + np.log(total))[:, 0] - y
        size, slope = np.abs(residual), np.clip(residual, -DELTA, DELTA)
        value = np.where(size <= DELTA, residual * residual / 2, DELTA * (size - DELTA / 2)).sum(1)
        pull = slope[:, None] * (share / total)
        inside = pull[:, : self.count]
        parts = [inside.sum(2), -(inside * self.x).sum(2)] + ([pull[:, self.count :].sum(2)] if self.floor else [])
        return SCALE * value, SCALE * np.concatenate(parts, 1)

    def starts(self, y: np.ndarray) -> np.ndarray:
        """A grid: exponents, a floor below the smallest loss, and how the terms divide what is above it."""
        least, middle = float(y.min()), float(np.exp(y).mean())
        rows = []
        for powers in itertools.product(EXPONENTS, repeat=self.count):
            for part in FLOORS if self.floor else (0.0,):
                above = middle - part * np.exp(least)
                for share in SHARES if self.count == 2 else (1.0,):
                    sizes = [share, 1 - share][: self.count]
                    floor = [least + np.log(part)] if self.floor else []
                    rows.append([*np.log(np.array(sizes) * above), *powers, *floor])
        return np.array(rows)

    def fit(self, y: np.ndarray) -> tuple[np.ndarray, float]:
        """The best end point of all starts, and its objective."""
        ends, values = self._descend(self.starts(y), y[None])
        best = int(values.argmin())
        return ends[best], float(values[best]) / SCALE

    def _descend(self, starts: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one = len(y) == 1
        return minimise(lambda theta, at: self.objective(theta, y if one else y[at]), starts)

    def law(self, theta: np.ndarray) -> tuple[float, ...]:
        """E, the factors, the exponents."""
        k = self.count
        powers = theta[k : 2 * k]
        factors = np.exp(np.clip(theta[:k] + powers * self.middle, -700, 700))
        floor = float(np.exp(theta[2 * k])) if self.floor else 0.0
        return (floor, *map(float, factors), *map(float, powers))
