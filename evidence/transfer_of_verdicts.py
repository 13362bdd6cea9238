"""Whether the verdict of a small study is that of a larger one

Made from the cells of the ladder alone: the same arms, text and tokenizer at scales of 0.05, 0.2 and 0.9 million
parameters, as far as there are cells. A pair is two arms that differ in one thing (two positions, two feed-forward
layers, an arm and the base), and its effect the mean difference of the logarithm of bits per byte over paired seeds. A
pair's sign survives where it is the same at the larger scale, its verdict (better, worse, equal within 1%, undecided)
where that is the same word, and the ranking of an axis by Kendall's tau. Intervals are of a bootstrap that draws axes,
and seeds within them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evidence._ladder import ARMS, BASES, METRIC
from llmanac.core.pages import Section, table
from llmanac.lab.stats import interval, mean
from llmanac.metrics.rank_correlation import rank_correlation

ROWS: tuple[str, ...] = ()
CLAIM = "how often a small study's sign, verdict and ranking are those of a study at four times the size"
OF = ("ladder_xs", "ladder_s", "ladder_m")
SEEDS, MARGIN, PARTIAL = 0, 0.01, True
PIECES = tuple(f"{scale}/{arm}" for scale in OF for arm in ARMS)
DRAWS, SIZES, WANTED = 2000, (0.01, 0.03), 0.8
REPLICATES, PAIRS = 5, 24  # of a step: what `llmanac compare` quotes, by the rule of all verdicts
Found = Mapping[str, Mapping[str, Sequence[float]]]  # scale -> arm -> log of bits per byte, by seed


def axes() -> dict[str, list[str]]:
    """The arms of each axis, the base among them."""
    found: dict[str, list[str]] = {}
    for arm, (kind, _) in ARMS.items():
        if arm != "base":
            found.setdefault(kind or arm, ["base"]).append(arm)
    return found


def values(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The logarithm of bits per byte by scale and arm; arms that a scale has in all of its seeds."""
    out: dict[str, dict[str, list[float]]] = {}
    for scale, arm in itertools.product(OF, ARMS):
        got = [math.log(one[f"{scale}/{arm}"][METRIC]) for one in seeds if f"{scale}/{arm}" in one]
        if len(got) > 1:
            out.setdefault(scale, {})[arm] = got
    return out


def effects(found: Found, scale: str, pair: tuple[str, str]) -> list[float]:
    """A pair's paired differences at a scale."""
    return [a - b for a, b in zip(found[scale][pair[0]], found[scale][pair[1]], strict=False)]


def pairs(found: Found, small: str, large: str) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each axis that both scales have."""
    both = found.get(small, {}).keys() & found.get(large, {}).keys()
    every = {axis: [p for p in itertools.combinations(arms, 2) if both.issuperset(p)] for axis, arms in axes().items()}
    return {axis: some for axis, some in every.items() if some}


def word(differences: Sequence[float]) -> str:
    """The verdict on a pair."""
    low, high = interval(differences)
    if low > MARGIN or high < -MARGIN:
        return "worse" if low > 0 else "better"
    return "equal" if low > -MARGIN and high < MARGIN else "undecided"


def survival(found: Found, small: str, large: str) -> list[dict[str, Any]]:
    """Of each pair: its axis, its effect at the small scale, whether sign and verdict are the same at the large one."""
    out = []
    for axis, some in pairs(found, small, large).items():
        for pair in some:
            before, after = effects(found, small, pair), effects(found, large, pair)
            out.append({
                "axis": axis, "pair": " against ".join(pair), "effect": mean(before), "after": mean(after),
                "sign": mean(before) * mean(after) > 0, "verdict": word(before) == word(after),
                "before": word(before), "then": word(after),
            })  # fmt: skip
    return out


def share(found: Found, small: str, large: str, what: str) -> tuple[float, float, float]:
    """The share of pairs whose sign or verdict survives, with its interval over axes and seeds."""
    draws, kept = np.random.default_rng(0), survival(found, small, large)
    names, out = sorted({one["axis"] for one in kept}), []
    for _ in range(DRAWS if what == "sign" else DRAWS // 10):
        seeds = {s: draws.integers(0, min(map(len, found[s].values())), 5) for s in (small, large)}
        drawn = {s: {arm: [got[i] for i in seeds[s]] for arm, got in found[s].items()} for s in (small, large)}
        some = [p for axis in draws.choice(names, len(names)) for p in pairs(found, small, large)[axis]]
        out.append(mean([_same(drawn, small, large, pair, what) for pair in some]))
    low, high = np.percentile(out, [2.5, 97.5]).tolist()
    return mean([float(one[what]) for one in kept]), low, high


def _same(found: Found, small: str, large: str, pair: tuple[str, str], what: str) -> float:
    before, after = effects(found, small, pair), effects(found, large, pair)
    return float(mean(before) * mean(after) > 0 if what == "sign" else word(before) == word(after))


def seeds_needed(found: Found, small: str, large: str) -> int | None:
    """The fewest seeds whose mean has the larger scale's sign in four fifths of pairs; None where all are too few."""
    every = [pair for some in pairs(found, small, large).values() for pair in some]
    for count in range(1, 1 + min(map(len, found[small].values()))):
        right = [
            float(mean(chosen) * mean(effects(found, large, pair)) > 0)
            for pair in every for chosen in itertools.combinations(effects(found, small, pair), count)
        ]  # fmt: skip
        if mean(right) >= WANTED:
            return count
    return None


def summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """For `llmanac compare`: by axis and over all ("") how many pairs there are, how many keep their sign, interval.

    A step from one scale to the next counts once it has 24 pairs of five replicates: fewer are an anecdote.
    """
    found = {s: {a: got for a, got in arms.items() if len(got) >= REPLICATES} for s, arms in values(seeds).items()}
    steps = [(a, b) for a, b in itertools.pairwise(OF) if sum(map(len, pairs(found, a, b).values())) >= PAIRS]
    kept = [one for step in steps for one in survival(found, *step)]
    if not kept:
        return {}
    wholes = [share(found, *step, "sign")[1:] for step in steps]
    out = {"": [len(kept), sum(one["sign"] for one in kept), min(w[0] for w in wholes), max(w[1] for w in wholes)]}
    for axis in sorted({one["axis"] for one in kept} & BASES.keys()):
        own = [one["sign"] for one in kept if one["axis"] == axis]
        out[axis] = [len(own), sum(own)]
    return out


def show(seeds: Sequence[Mapping[str, Any]]) -> list[Section]:
    found, out = values(seeds), []
    for small, large in itertools.pairwise(OF):
        if not pairs(found, small, large):
            out.append(Section(f"{small} to {large}", ["No pair has two seeds at both scales yet."], []))
            continue
        kept, needed = survival(found, small, large), seeds_needed(found, small, large)
        said = []
        for what in ("sign", "verdict"):
            value, low, high = share(found, small, large, what)
            said.append(f"The {what} survives in {value:.0%} of {len(kept)} pairs ({low:.0%} to {high:.0%}).")
        said.append(
            f"Means of {needed} seeds have the larger scale's sign in at least {WANTED:.0%} of pairs."
            if needed
            else f"No number of seeds that there is gives the larger scale's sign in {WANTED:.0%} of pairs."
        )
        edges = [0.0, *SIZES, math.inf]
        by_size = [
            [f"{low:.0%} to {high:.0%}" if high < math.inf else f"above {low:.0%}", str(len(some)), f"{mean(some):.0%}"]
            for low, high in itertools.pairwise(edges)
            if (some := [float(one["sign"]) for one in kept if low <= abs(one["effect"]) < high])
        ]
        by_axis = []
        for axis, some in pairs(found, small, large).items():
            arms = [arm for arm in axes()[axis] if arm in found[small] and arm in found[large]]
            own = [float(one["sign"]) for one in kept if one["axis"] == axis]
            means = [[mean(found[s][arm]) for arm in arms] for s in (small, large)]
            tau = f"{rank_correlation(*means, 'kendall').value:.2f}" if len(arms) > 2 else ""
            by_axis.append([axis, str(len(some)), f"{mean(own):.0%}", tau])
        each = [[o["pair"], f"{o['effect']:+.2%}", o["before"], f"{o['after']:+.2%}", o["then"]] for o in kept]
        out.append(Section(f"{small} to {large}", said, [
            table(["size of the small effect", "pairs", "sign survives"], by_size),
            table(["axis", "pairs", "sign survives", "Kendall's tau"], by_axis),
            table(["pair", f"effect at {small}", "verdict", f"effect at {large}", "verdict there"], each),
        ]))  # fmt: skip
    return out
