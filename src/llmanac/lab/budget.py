"""How many steps fit, so that the study with every arm and seed ends within its budget.

    sum over arms of runs_a (fixed_a + steps_a t_a) = budget - spent,   steps_a = steps x ratio_a

`t_a` is the arm's step time and `fixed_a` what a run costs outside its steps (building, evaluating), both measured on
this machine in interleaved calibration runs; `ratio_a` makes equal what is held: 1 where tokens or parameters are and
every arm's step holds as many tokens.

The budget of a study while it runs.

Steps are planned to fit and equal for every arm, so they cannot be cut if the machine turns out slower. The number of
seeds can: past its budget a study ends after the seed that all arms have finished, so that all runs are paired. Runs
are kept, so the same command continues.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.lab.stats import MIN_REPLICATES

MIN_STEPS = 200
RESERVE = 0.05  # fraction of the budget held in reserve, since step times drift


def format_duration(seconds: float) -> str:
    """Seconds as a person writes them: `45s`, `3m 20s`, `1h 05m`."""
    if seconds < 60:
        return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if rest else f"{minutes}m"


class BudgetError(SpecError):
    """A budget that is too small for the request; a smaller base may fit."""


@dataclass(frozen=True)
class Speed:
    """What calibration measured of one arm: seconds a step, and seconds a run costs outside its steps.

    An arm without steps (`step_seconds` 0) is estimated, and its one run serves every seed.
    """

    step_seconds: float
    fixed_seconds: float


@dataclass(frozen=True)
class StudyPlan:
    """What the study will do, printed and written before the first run."""

    budget_seconds: float
    spent_seconds: float
    expected_seconds: float
    seeds: int
    tuning_runs: int
    steps: dict[str, int]
    speed: dict[str, Speed]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudyPlan:
        return cls(**{**data, "speed": {arm: Speed(**speed) for arm, speed in data["speed"].items()}})

    def seconds_of(self, arm: str) -> float:
        """What one run of an arm is expected to take."""
        return self.speed[arm].fixed_seconds + self.steps[arm] * self.speed[arm].step_seconds


def make_plan(
    budget: float, spent: float, seeds: int, speed: Mapping[str, Speed], ratios: Mapping[str, float], *,
    tuning_runs: int = 0, min_steps: int = MIN_STEPS, stated: int | None = None,
) -> StudyPlan:  # fmt: skip
    """The most steps that fit.

    Args:
        budget: seconds for everything, what is `spent` already (data, calibration) included.
        ratios: each arm's steps over those of an arm whose ratio is 1.
        tuning_runs: how many further runs every arm gets for its sweep.
        min_steps: of any arm where there are seeds enough for a verdict.
        stated: the steps that the base states for an arm whose ratio is 1, where it does; they must fit.

    Raises:
        BudgetError: an arm would get fewer than `min_steps`, or the stated steps do not fit; the message says what
            budget would do.
        SpecError: the stated steps are fewer than `min_steps`.
    """
    runs = seeds + tuning_runs
    least, what = (min_steps, "a verdict") if seeds >= MIN_REPLICATES else (1, "a run")
    fixed = sum(s.fixed_seconds * (runs if s.step_seconds else 1) for s in speed.values())
    a_step = runs * sum(s.step_seconds * ratios[arm] for arm, s in speed.items())
    usable = budget * (1 - RESERVE) - spent - fixed
    if not a_step:  # nothing is trained in steps
        return StudyPlan(
            budget, spent, spent + fixed, seeds, tuning_runs, dict.fromkeys(speed, stated or 1), dict(speed)
        )
    most = usable / a_step
    if stated is not None and stated > most:
        needed = (spent + fixed + a_step * stated) / (1 - RESERVE)
        raise BudgetError(
            f"--budget {format_duration(budget)} is too little for train.steps = {stated} ({runs} runs of each of "
            f"{len(speed)} arms); use --budget {round_up(needed)}, leave train.steps out, or take a "
            "smaller base"
        )
    # floor(most) first: where tokens are held every arm must get the very same number
    steps = {arm: max(0, round(math.floor(stated or most) * ratios[arm])) for arm in speed}
    short = min((arm for arm in steps if speed[arm].step_seconds), key=lambda arm: steps[arm])
    if steps[short] < least and stated is not None:
        raise SpecError(
            f"train.steps: {stated} gives {short} {steps[short]} steps a run, and a verdict needs at least {least}; "
            f"set train.steps to {math.ceil(least / min(ratios.values()))} or more (-s train.steps=N), or leave it out"
        )
    if steps[short] < least:
        needed = (spent + fixed + a_step * (least + 1) / min(ratios.values())) / (1 - RESERVE)
        raise BudgetError(
            f"--budget {format_duration(budget)} leaves {short} {steps[short]} steps a run ({runs} runs of each of "
            f"{len(speed)} arms), and {what} needs at least {least}; use --budget {round_up(needed)}, fewer "
            "arms, or a smaller base"
        )
    expected = spent + fixed + runs * sum(steps[arm] * s.step_seconds for arm, s in speed.items())
    return StudyPlan(budget, spent, expected, seeds, tuning_runs, steps, dict(speed))


def round_up(seconds: float) -> str:
    """A budget of at least this long, in minutes (or tens of seconds below five minutes), as a flag's value."""
    if seconds < 300:
        tens = math.ceil(seconds / 10) * 10
        return f"{tens}s" if tens % 60 else f"{tens // 60}m"
    return f"{math.ceil(seconds / 60)}m"


WARN = 1.1  # warn while the study runs if its expected end is beyond this many budgets
AGAIN = 1.25  # warn again if the expected end moved by this factor
MOST = 1.25  # a seed that would end beyond this many budgets is not started

now: Callable[[], float] = time.monotonic


class Deadline:
    """When a study has to end.

    Args:
        budget: seconds for all of it.
        began: when it began.
        say: called with each line for the user.
        expected: seconds of one run, by arm, where they were planned.
    """

    def __init__(
        self, budget: float, began: float, say: Callable[[str], None], expected: Mapping[str, float] | None = None
    ) -> None:
        self.budget, self.began, self.say = budget, began, say
        self.expected = dict(expected or {})
        self.taken: dict[str, list[float]] = {}
        self._said = WARN * budget / AGAIN

    @property
    def elapsed(self) -> float:
        """Seconds since the study began."""
        return now() - self.began

    def ran(self, arm: str, seconds: float, left: Iterable[str]) -> None:
        """Record the seconds of a run of `arm`; warn if it and one run of each of `left` take too long."""
        self.taken.setdefault(arm, []).append(seconds)
        ends = self.elapsed + sum(map(self._a_run, left))
        if ends > AGAIN * self._said:
            self._said = ends
            self.say(
                f"slower than planned: this study is going to take about {format_duration(ends)} of its "
                f"{format_duration(self.budget)}; past them it ends after the seed that all arms have finished"
            )

    def stops(self, arms: Iterable[str], done: int, asked: int) -> str:
        """Why no further seed is started, or an empty text. A study that has run nothing yet continues."""
        seed = sum(map(self._a_run, arms))
        if not self.taken or (self.elapsed < self.budget and self.elapsed + seed <= MOST * self.budget):
            return ""
        why = (
            f"{format_duration(self.elapsed)} of {format_duration(self.budget)} are used and a seed takes about "
            f"{format_duration(seed)}"
        )
        slower = self._slower()
        if slower > WARN:
            why += f", {slower:.1f} times what was planned"
        return f"{done} of {asked} seeds were done: {why}. Finished runs are kept, and the same command continues"

    def _slower(self) -> float:
        """How many times as long as planned the runs took."""
        known = [arm for arm in self.taken if self.expected.get(arm)]
        planned = sum(self.expected[arm] * len(self.taken[arm]) for arm in known)
        return sum(sum(self.taken[arm]) for arm in known) / planned if planned else 1.0

    def _a_run(self, arm: str) -> float:
        """Seconds that the next run of an arm takes: as its last one, else as planned at the speed of the others."""
        if arm in self.taken:
            return self.taken[arm][-1]
        if arm in self.expected:
            return self.expected[arm] * self._slower()
        every = [seconds for runs in self.taken.values() for seconds in runs]
        return sum(every) / len(every) if every else 0.0
