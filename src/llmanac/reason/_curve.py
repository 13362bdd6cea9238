"""Accuracy over the number of samples, from one draw of n samples a question.

    accuracy(k) = mean over questions of  mean over subsets S of k of its n samples of  1[the choice from S is right]

The mean over all subsets is an unbiased estimate of what k fresh samples give. Where there are more than `MOST` subsets
as many are drawn at random, which is unbiased too. Nothing is sampled again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.metrics import wilson_interval
from llmanac.metrics.statistics.estimates import estimate
from llmanac.reason import Found

MOST = 13_000  # subsets; those of 8 among 16 are 12,870


@dataclass(frozen=True)
class Point:
    """Accuracy with k samples, its 95% interval over questions (None for a single one), and a question's tokens."""

    k: int
    accuracy: float
    interval: tuple[float, float] | None
    tokens: float


def curve(found: Sequence[Found], correct: Sequence[Sequence[bool]], *, seed: int = 0) -> list[Point]:
    """A point for k = 1, 2, 4, ... n.

    Args:
        correct: for each question, whether each of its candidates is right.

    Raises:
        DataError: a method that does not choose among independent samples, or no question.
    """
    if not found or any(one.support is None for one in found):
        raise DataError("curve: only methods that choose among independent samples have one (best-of-n, voting, mbr)")
    n = min(len(one.candidates) for one in found)
    sizes = [2**i for i in range(n.bit_length()) if 2**i < n] + [n]
    right = [np.asarray(own, np.float64) for own in correct]
    points = []
    for k in sizes:
        masks = subsets(n, k, seed)
        each = np.array([right_share(one, own, masks) for one, own in zip(found, right, strict=True)])
        points.append(Point(k, float(each.mean()), _interval(each), sum(_tokens(one, k) for one in found) / len(found)))
    return points


def _interval(each: np.ndarray) -> tuple[float, float] | None:
    """Wilson's where every question is right or wrong, as `llmanac evaluate` has it; else the normal one."""
    if len(each) < 2:
        return None
    if np.isin(each, (0.0, 1.0)).all():
        return wilson_interval(int(each.sum()), len(each))[1:]
    over = estimate(each)
    return max(0.0, over.low), min(1.0, over.high)


def subsets(n: int, k: int, seed: int = 0) -> np.ndarray:
    """(S, n) bool: every subset of k among n, or `MOST` random ones."""
    if math.comb(n, k) <= MOST:
        chosen = np.array(list(itertools.combinations(range(n), k)))
    else:
        chosen = numpy_generator(seed, "subsets", n, k).random((MOST, n)).argsort(1)[:, :k]
    masks = np.zeros((len(chosen), n), bool)
    np.put_along_axis(masks, chosen, True, 1)
    return masks


def right_share(found: Found, right: np.ndarray, masks: np.ndarray) -> float:
    """The share of subsets (S, n) whose choice is right."""
    assert found.support is not None
    totals = masks.astype(np.float64) @ found.support[: masks.shape[1], : masks.shape[1]].T
    return float(right[np.where(masks, totals, -np.inf).argmax(1)].mean())


def _tokens(found: Found, k: int) -> float:
    """The prompt once, and k of the n answers with what was read for them."""
    return found.cost.prompt + (found.cost.sampled + found.cost.verifier) * k / len(found.candidates)
