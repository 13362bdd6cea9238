"""A study: one base, one varying axis, trials of its arms, and the conclusions.

The outer loop is over seeds, the inner one over arms, so that an interrupted study is balanced. Finished trials are
cached by content: nothing runs twice.

A comparison that looks at its verdict several times: `--seeds auto` adds replicates until each arm has one.

Every look spends a part of alpha, by the O'Brien-Fleming-like function of Lan & DeMets 1983 (Biometrika 70):

    spent(t) = 2 - 2 Phi(z_{1 - alpha/2} / sqrt(t)),     t = replicates / the most there may be

so that all looks together have a false claim in at most alpha of studies. The level of each look follows from the
Brownian motion that standardised sums follow, step by step (Armitage, McPherson & Rowe 1969), and p values are compared
with it (Jennison & Turnbull 2000, section 4.4): an arm is better or worse, or equivalent, where the interval of that
level is beyond zero, or inside the margin. Few skewed differences make Student's t = m / (s / sqrt(n)) too bold in one
direction, which looks add to; so the statistic is the smaller of his and of Hall's (1992, J. R. Stat. Soc. B 54), which
has the skewness g in it and grows with t:

    t_H = sqrt(n) (r + g r^2 / 3 + g^2 r^3 / 27 + g / (6 n)),     r = m / s
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

from llmanac.core.errors import TrainingError
from llmanac.lab import budget as deadlines
from llmanac.lab.axis import Arm, Axis
from llmanac.lab.budget import Deadline
from llmanac.lab.cache import StudyCache, digest
from llmanac.lab.pairing import pairing_record
from llmanac.lab.stats import (
    ALPHA,
    MARGIN,
    POWER,
    STUDENT,
    ArmComparison,
    Metric,
    Tests,
    compare_arms,
    equivalence_p,
    student,
    two_sided_p,
)
from llmanac.metrics.statistics.student import student_quantile

LOOKS = (5, 7, 10, 14, 20)  # replicates after which the verdict is looked at
DRAWN = 4000  # studies in which power is counted
NORMAL = NormalDist()
GRID = np.arange(-2400, 2401) / 200  # of the sum, whose variance is 1 at the last look


def hall(values: np.ndarray) -> np.ndarray:
    """(..., n) -> (...): Hall's transformed t of a mean against zero."""
    n, centre = values.shape[-1], values.mean(-1)
    off, spread = values - centre[..., None], values.std(-1, ddof=1)
    skew, ratio = (off**3).sum(-1) * n / ((n - 1) * (n - 2)) / spread**3, centre / spread
    return np.asarray(math.sqrt(n) * (ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * n)))


def guarded(values: Any) -> np.ndarray:
    """(..., n) -> (...): the one of Student's and Hall's t that is nearer to zero; 0 where their signs differ."""
    values = np.asarray(values)
    t, other = values.mean(-1) / (values.std(-1, ddof=1) / math.sqrt(values.shape[-1])), hall(values)
    return np.where(t * other > 0, np.sign(t) * np.minimum(abs(t), abs(other)), 0.0)


def _statistic(values: Sequence[float]) -> float:
    t = student(values)
    return t if math.isinf(t) or not t else float(guarded(values))


GUARDED = dataclasses.replace(
    STUDENT,
    different=functools.partial(two_sided_p, statistic=_statistic),
    equivalent=functools.partial(equivalence_p, statistic=_statistic),
)


def looks_within(most: int) -> tuple[int, ...]:
    """The looks of a study of at most so many replicates."""
    return (*(n for n in LOOKS if n < most), most)


@functools.cache
def levels(most: int) -> dict[int, float]:
    """By look, the level of its interval."""
    found, spent, left, last = dict[int, float](), 0.0, np.ones(1), 0
    for n in looks_within(most):
        step = np.exp(-(GRID**2) / (2 * (n - last) / most))
        left = np.convolve(step / step.sum(), left, "same")
        now = 2 - 2 * NORMAL.cdf(NORMAL.inv_cdf(1 - ALPHA / 2) / math.sqrt(n / most))
        beyond = 2 * np.cumsum(left[::-1])[::-1]  # of the mass outside -x..x, by x
        edge = float(GRID[np.argmax((beyond <= now - spent) & (GRID > 0))])
        found[n] = 2 - 2 * NORMAL.cdf(edge / math.sqrt(n / most))
        left, spent, last = np.where(np.abs(GRID) < edge, left, 0.0), now, n
    return found


def power(effect: float, most: int, arms: int = 1) -> float:
    """The chance that a true difference of so many standard deviations is found at some look.

    Counted in normal studies that are drawn, the same ones for every effect.
    """
    drawn = np.random.default_rng(0).standard_normal((DRAWN, most)) + effect
    found = np.zeros(DRAWN, bool)
    for n, level in levels(most).items():
        found |= guarded(drawn[:, :n]) >= student_quantile(1 - level / (2 * arms), n - 1)
    return float(found.mean())


@functools.cache
def _found_with(chance: float, most: int, arms: int) -> float:
    """The difference in standard deviations whose power is `chance`."""
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, most, arms) < chance else (low, middle)
    return high


def compare_in_looks(
    values: Mapping[str, Sequence[float]], baseline: str, most: int, **options: Any
) -> list[ArmComparison]:
    """`compare_arms` of all replicates, with the verdicts of the first look that settled each arm.

    Args:
        most: replicates that the study may have; options: as of `compare_arms`.
    """
    done, settled = len(values[baseline]), dict[str, str]()
    for n, level in levels(most).items():
        if n <= done:
            some = {arm: one[:n] for arm, one in values.items()}
            for c in compare_arms(some, baseline, **options | {"levels": (level, level / 2), "tests": GUARDED}):
                if c.verdict != "inconclusive":
                    settled.setdefault(c.arm, c.verdict)
    out = []
    for c in compare_arms(values, baseline, **options | {"tests": GUARDED}):
        verdict: Any = settled.get(c.arm, "inconclusive") if done >= LOOKS[0] else c.verdict
        detectable = c.sd and c.sd * _found_with(POWER, most, len(values) - 1)
        further = c.further if verdict == c.verdict else most - done if verdict == "inconclusive" else None
        out.append(dataclasses.replace(c, verdict=verdict, detectable=detectable, further=further or None))
    return out


Advance = Callable[[str, int, bool, str], None]
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """The measurement of one trial.

    Attributes:
        values: by metric, one number a replicate: a single one for a trained model, one a prompt or document otherwise.
        costs: by cost, in the units that the trial declares; None where this machine cannot measure it.
        curve: points of a learning curve (`tokens`, `seconds`, and the primary metric under `value`).
        pairing: hashes that must agree between arms: `parameters` by name and shape, `rows` in order.
        failed: why there are no values, where there are none.
        loses: what the arm loses of its text, if anything; it then gets no verdict.
        shown: lines of what the arm makes of one example, for the page.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    pairing: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    loses: str = ""
    shown: str = ""


class Trial(Protocol):
    """How one arm is tried once.

    Attributes:
        metrics: what is measured; the verdict is on the first.
        costs: also reported, whatever is held equal.
        replicate: what a replicate is: "seed", "prompt" or "document".
    """

    metrics: tuple[Metric, ...]
    costs: tuple[Metric, ...]
    replicate: str

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides the result, as plain data: the trial's key in the cache. `sources` lists its code."""

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Try an arm. `work` may hold what an interrupted attempt left."""


def attempt(trial: Trial, arm: Arm, seed: int, work: Path) -> dict[str, Any]:
    """A trial's measurement as plain data. Training that diverges is a result (it failed); other errors are raised."""
    try:
        return dataclasses.asdict(trial.measure(arm, seed, work))
    except TrainingError as error:
        return dataclasses.asdict(Measurement(failed=str(error)))


@dataclass(frozen=True)
class Study:
    """Everything that is decided before the first trial.

    Attributes:
        looks: numbers of seeds after which the study ends if every arm has its verdict (`looks.py`).
        about: hold, tune, plan, base, ...: copied into the result.
        tests: of the differences.
        initial: the tensors that an arm starts from under a seed, for a trial that trains: see `pairing`.
    """

    name: str
    axis: Axis
    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    trial: Trial
    margin: float = MARGIN
    alpha: float = ALPHA
    about: Mapping[str, Any] = field(default_factory=dict)
    initial: Callable[[Arm, int], Mapping[str, Any]] | None = None
    looks: tuple[int, ...] = ()
    tests: Tests = STUDENT

    def run(
        self, cache: StudyCache, advance: Advance | None = None, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        """Try every arm under every seed and conclude; returns the study's result as plain data.

        Args:
            advance: called after each trial with the arm, the seed, whether the cache had it, and why it failed or "".
            deadline: past it no further seed is begun; the result has the seeds that were done, and `stopped`.
        """
        started, load = time.time(), system_load()
        measured: dict[str, dict[int, Measurement]] = {arm.label: {} for arm in self.arms}
        runs: list[dict[str, Any]] = []
        sources: dict[str, str] = {}
        labels, stopped, done = [arm.label for arm in self.arms], "", len(self.seeds)
        for number, seed in enumerate(self.seeds):
            if number and deadline and (stopped := deadline.stops(labels, number, len(self.seeds))):
                done = number
                break
            for place, arm in enumerate(self.arms):
                parts = self.trial.parts(arm, seed)
                begun = deadlines.now()
                found, cached = cache.run(parts, lambda work, arm=arm, seed=seed: attempt(self.trial, arm, seed, work))  # type: ignore[misc]
                measured[arm.label][seed] = Measurement(**found)
                sources |= parts.get("sources", {})
                taken = round(deadlines.now() - begun, 3)
                runs.append({"arm": arm.label, "seed": seed, "key": digest(parts), "cached": cached, "seconds": taken})
                if advance:
                    advance(arm.label, seed, cached, found["failed"])
                if deadline and not cached:
                    left = labels[place + 1 :] + labels * (len(self.seeds) - number - 1)
                    deadline.ran(arm.label, taken, left)
            self._pairing(measured)  # after every seed: stop a study whose arms do not start equal
            if number + 1 in self.looks and self._settled(measured, number + 1):
                done = number + 1
                break
        result = dataclasses.replace(self, seeds=self.seeds[:done]).conclude(measured)
        return result | {
            "asked_seeds": len(self.seeds), "stopped": stopped, "runs": runs, "sources": dict(sorted(sources.items())),
            "seconds": time.time() - started, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "load": {"before": load, "after": system_load(), "cores": os.cpu_count()},
        }  # fmt: skip

    def conclude(self, measured: Mapping[str, Mapping[int, Measurement]]) -> dict[str, Any]:
        """Values, costs, curves and verdicts from the measurements."""
        failed = {
            arm: [f"seed {seed}: {m.failed}" for seed, m in by_seed.items() if m.failed]
            for arm, by_seed in measured.items()
        }
        finished = [arm for arm in measured if not failed[arm]]
        values = {
            metric.name: {arm: self._replicates(measured[arm], metric.name) for arm in finished}
            for metric in self.trial.metrics
        }
        loses = {
            arm: why for arm in finished if (why := next((m.loses for m in measured[arm].values() if m.loses), ""))
        }
        comparisons = {
            metric.name: [dataclasses.asdict(c) for c in self._compare(values[metric.name], metric, loses)]
            for metric in self.trial.metrics
        }
        return {
            "format_version": FORMAT_VERSION, "name": self.name, "kind": self.axis.name, "path": self.axis.path,
            "replicate": self.trial.replicate, "baseline": self.baseline, "seeds": list(self.seeds),
            "margin": self.margin, "alpha": self.alpha, "intervals": self.tests.intervals,
            "arms": [{"label": a.label, "diff": _pairs(a.diff), "held": _pairs(a.held)} for a in self.arms],
            "metrics": [dataclasses.asdict(m) for m in self.trial.metrics],
            "cost_units": [dataclasses.asdict(m) for m in self.trial.costs],
            "values": values,
            "comparisons": comparisons,
            "costs": {arm: self._costs(measured[arm]) for arm in finished},
            "curves": {arm: {str(s): m.curve for s, m in by.items() if m.curve} for arm, by in measured.items()},
            "shown": {arm: m.shown for arm, by in measured.items() for m in [*by.values()][:1] if m.shown},
            "pairing": self._pairing(measured),
            "failed": {arm: messages for arm, messages in failed.items() if messages},
            **self.about, **self._looked(),
        }  # fmt: skip

    def _looked(self) -> dict[str, Any]:
        """The levels of the looks, and a note on them."""
        if not self.looks:
            return {}
        level = levels(self.looks[-1])
        said = ", ".join(f"{n} ({level[n]:.2g})" for n in self.looks)
        note = (
            f"Seeds were added until each arm had its verdict or the budget was spent. Looks after so many seeds, with "
            f"the level of each: {said}. Intervals are not adjusted for the looks."
        )
        return {"looks": {str(n): level[n] for n in self.looks}, "notes": [*self.about.get("notes", ()), note]}

    def _pairing(self, measured: Mapping[str, Mapping[int, Measurement]]) -> dict[str, Any]:
        hashes = {
            seed: {arm: by[seed].pairing for arm, by in measured.items() if seed in by and by[seed].pairing}
            for seed in self.seeds
        }
        by_label, start = {arm.label: arm for arm in self.arms}, self.initial
        initial = None if start is None else lambda label, seed: start(by_label[label], seed)
        return pairing_record(hashes, same_start=self.axis.same_start, same_rows=self.axis.same_rows, initial=initial)

    def _replicates(self, by_seed: Mapping[int, Measurement], metric: str) -> list[float]:
        """One number a replicate: by seed for what is trained; else the mean over seeds, by prompt or document."""
        lists = [by_seed[seed].values[metric] for seed in self.seeds]
        if self.trial.replicate == "seed":
            return [values[0] for values in lists]
        return [math.fsum(column) / len(column) for column in zip(*lists, strict=True)]

    def _compare(
        self, values: Mapping[str, Sequence[float]], metric: Metric, loses: Mapping[str, str]
    ) -> list[ArmComparison]:
        if self.baseline not in values or len(values) < 2:
            return []
        options: dict[str, Any] = {"better": metric.better, "margin": self.margin, "refused": loses}
        if self.looks:
            return compare_in_looks(values, self.baseline, self.looks[-1], **options)
        return compare_arms(values, self.baseline, levels=(self.alpha, self.alpha), tests=self.tests, **options)

    def _settled(self, measured: Mapping[str, Mapping[int, Measurement]], seeds: int) -> bool:
        """Whether the first metric has a verdict on every arm after so many seeds."""
        found = dataclasses.replace(self, seeds=self.seeds[:seeds]).conclude(measured)
        return all(c["verdict"] != "inconclusive" for c in found["comparisons"][self.trial.metrics[0].name])

    def _costs(self, by_seed: Mapping[int, Measurement]) -> dict[str, float | None]:
        """The mean of each cost over the seeds."""
        out: dict[str, float | None] = {}
        for cost in self.trial.costs:
            known = [v for seed in self.seeds if (v := by_seed[seed].costs.get(cost.name)) is not None]
            out[cost.name] = math.fsum(known) / len(known) if known else None
        return out


def _pairs(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, list[Any]]:
    return {path: [old, new] for path, (old, new) in changes.items()}


def system_load() -> float | None:
    """The one-minute load average, where the system has one."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
