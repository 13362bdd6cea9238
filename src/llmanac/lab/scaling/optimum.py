"""The best size for a compute by the three approaches of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556).

    envelope     over runs with several lengths: at each compute the size of the least interpolated loss
    IsoFLOP      over runs of one compute: the minimum of a parabola of the log loss over log N
    parametric   the law of `law.py`: N = G (C / 6)^a with a = beta / (alpha + beta)

The first two fit log N = log g + a log C to the sizes they found; what they cannot find is said, not guessed. The
frontier, the runs with no better one of less compute, gives the exponent of L = K / C^alpha with and without a floor.

Finished runs as points (N, D, L), read from a table with a row a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.lab.scaling.law import Fit, PowerLaw, fit_power

Counted = Literal["total", "non-embedding"]
COLUMNS = {  # what a column may be called, in small letters and with spaces for `_` and `-`
    "total": ("parameters", "params", "n", "model size", "total parameters"),
    "non-embedding": ("non embedding parameters", "non embedding", "non embedding params"),
    "tokens": ("tokens", "d", "training tokens"),
    "flops": ("flops", "c", "compute", "training flop", "training flops"),
    "loss": ("loss", "l", "final loss", "held out loss"),
}
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Points:
    """Runs of several sizes.

    Attributes:
        parameters, tokens, loss: (n,); losses are nats a token.
        counted: what `parameters` counts.
        skipped: rows without a finite loss.
    """

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    counted: Counted = "total"
    skipped: int = 0

    @property
    def flops(self) -> np.ndarray:
        """6 N D."""
        return 6 * self.parameters * self.tokens

    def without_highest(self, count: int) -> Points:
        """Without the `count` highest losses. Raises SpecError where nothing would be left."""
        if not 0 <= count < len(self.loss):
            raise SpecError(f"--drop-highest: {count} of {len(self.loss)} runs; give a smaller number")
        keep = np.sort(np.argsort(self.loss, kind="stable")[: len(self.loss) - count])
        return Points(self.parameters[keep], self.tokens[keep], self.loss[keep], self.counted, self.skipped)


def read_points(path: Path, counted: Counted = "total") -> Points:
    """The runs of a table. Tokens may be missing where there is a compute: D = C / 6N.

    Raises:
        DataError: a file without the columns, or a value that is not a positive number; the message has its line.
    """
    rows, skipped = [], 0
    columns: dict[str, str] | None = None
    for line, row in ((one.line, one.values) for one in table_rows(path, CommandProblems())):
        if columns is None:
            columns = _columns(path, row, counted)
        loss = _number(path, line, row, columns["loss"], missing=True)
        if loss is None:
            skipped += 1
            continue
        size = _number(path, line, row, columns[counted])
        assert size is not None
        if "tokens" in columns:
            tokens = _number(path, line, row, columns["tokens"])
        else:
            tokens = (_number(path, line, row, columns["flops"]) or 0) / (6 * size)
        rows.append((size, tokens, loss))
        if len(rows) > MOST_ROWS:
            raise DataError(f"{path}: more than {MOST_ROWS:,} runs; give the last point of each run only")
    if not rows:
        raise DataError(f"{path}: has no run with a loss")
    sizes, tokens_of, losses = np.array(rows, float).T
    return Points(sizes, tokens_of, losses, counted, skipped)


def _columns(path: Path, row: Mapping[str, Any], counted: str) -> dict[str, str]:
    """The name of each column that is there."""
    names = {str(name).strip().lower().replace("_", " ").replace("-", " "): name for name in row}
    found = {what: names[alias] for what, aliases in COLUMNS.items() for alias in aliases if alias in names}
    wanted = [counted, "loss", *([] if "flops" in found else ["tokens"])]
    for what in wanted:
        if what not in found:
            other = " or flops" if what == "tokens" else ""
            raise DataError(
                f"{path}: has no column for {what}{other} ({', '.join(map(repr, COLUMNS[what]))}); its columns are "
                f"{', '.join(map(repr, row))}"
            )
    return found


def _number(path: Path, line: int, row: Mapping[str, Any], name: str, *, missing: bool = False) -> float | None:
    value = row.get(name)
    try:
        number = float("nan" if missing and value in (None, "") else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(f"{path}:{line}: {name}: {value!r} is not a number") from None
    if missing and not math.isfinite(number):
        return None
    if not 0 < number < math.inf:
        raise DataError(f"{path}:{line}: {name}: {value!r} is not a positive number")
    return number


def groups(values: np.ndarray, tolerance: float) -> Sequence[np.ndarray]:
    """Indices of values that are equal within a relative tolerance of the first of their group."""
    order = np.argsort(values, kind="stable")
    out, start = [], 0
    for at in range(1, len(order) + 1):
        if at == len(order) or values[order[at]] > values[order[start]] * (1 + tolerance):
            out.append(order[start:at])
            start = at
    return out


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
