"""The budget of a study while it runs.

Steps are planned to fit and equal for every arm, so they cannot be cut where the machine turns out slower. What can be
cut is the number of seeds: past its budget a study ends after the seed that all arms have finished, and what is
there is paired. Runs are kept, so the same command goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from llmanac.lab.budget import format_duration

WARN = 1.1  # an expected end past so many budgets is said while the study runs
AGAIN = 1.25  # and said again where it moved by so much
MOST = 1.25  # budgets that a study may take: a seed that would end later is not begun

now: Callable[[], float] = time.monotonic


class Deadline:
    """When a study has to end.

    Args:
        budget: seconds for all of it.
        began: when it began.
        say: what lines for the user are given to.
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
        """A run of `arm` took so long, and one of each of `left` is still to come; warns where that takes too long."""
        self.taken.setdefault(arm, []).append(seconds)
        ends = self.elapsed + sum(map(self._a_run, left))
        if ends > AGAIN * self._said:
            self._said = ends
            self.say(
                f"slower than planned: this study is going to take about {format_duration(ends)} of its "
                f"{format_duration(self.budget)}; past them it ends after the seed that all arms have finished"
            )

    def stops(self, arms: Iterable[str], done: int, asked: int) -> str:
        """Why no further seed is begun, or nothing. A study that has not run anything yet goes on."""
        seed = sum(map(self._a_run, arms))
        if not self.taken or (self.elapsed < self.budget and self.elapsed + seed <= MOST * self.budget):
            return ""
        why = (
            f"{format_duration(self.elapsed)} of {format_duration(self.budget)} are gone and a seed takes about "
            f"{format_duration(seed)}"
        )
        slower = self._slower()
        if slower > WARN:
            why += f", {slower:.1f} times what was planned"
        return f"{done} of {asked} seeds were done: {why}. Finished runs are kept, and the same command goes on"

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
