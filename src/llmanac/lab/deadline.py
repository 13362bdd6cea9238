"""The budget of a study while it runs.

Steps are planned to fit and equal for every arm, so they cannot be cut if the machine turns out slower. The number of
seeds can: past its budget a study ends after the seed that all arms have finished, so that all runs are paired. Runs
are kept, so the same command continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from llmanac.lab.budget import format_duration

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
