"""How often the 95% intervals of `llmanac scaling fit` hold the numbers of laws that were planted.

    python tools/scaling_coverage.py [LAWS]          # 1000 laws for each number of runs, about 15 minutes

Every law has its own coefficients, sizes and noise of 1%; a row is one number of runs, a column one coefficient.
"""

from __future__ import annotations

import sys

import numpy as np

from llmanac.lab.scaling.law import FEWEST, NAMES, Law, fit_law

RUNS = (10, 16, 40)


def planted(runs: int, seed: int) -> tuple[Law, np.ndarray, np.ndarray, np.ndarray]:
    """A law, and the sizes, tokens and losses of runs that follow it."""
    draw = np.random.default_rng([runs, seed])
    factors = np.exp(draw.normal(0, 0.3, 2)) * (400.0, 2000.0)
    law = Law(draw.uniform(1.2, 2.2), *map(float, factors), draw.uniform(0.28, 0.42), draw.uniform(0.28, 0.42))
    sizes = np.exp(draw.uniform(np.log(3e6), np.log(3e9), runs))
    tokens = np.exp(draw.uniform(np.log(1e8), np.log(1e11), runs))
    return law, sizes, tokens, law.loss(sizes, tokens) * np.exp(draw.normal(0, 0.01, runs))


def covered(runs: int, laws: range) -> np.ndarray:
    """(5,) how many of the laws have each number in its interval."""
    hits = np.zeros(len(NAMES), int)
    for seed in laws:
        law, sizes, tokens, losses = planted(runs, seed)
        fit = fit_law(sizes, tokens, losses, seed=seed)
        for at, name in enumerate(NAMES):
            interval = fit.interval(lambda one, n=name: getattr(one, n))
            assert interval is not None
            hits[at] += interval[0] <= getattr(law, name) <= interval[1]
    return hits


if __name__ == "__main__":
    laws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"of {laws} planted laws in % (fewer than {FEWEST} runs: no intervals)")
    print("runs", *(f"{name:>7}" for name in NAMES))
    for runs in RUNS:
        print(f"{runs:>4}", *(f"{100 * hit / laws:7.1f}" for hit in covered(runs, range(laws))), flush=True)
