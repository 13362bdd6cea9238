"""Time budgets: whether a training will end in time, and how many steps it takes if not.

The first number of steps is an estimate; the training's own first steps are timed, and replace it. Other load on the
machine moves the end, so a training measures its speed as it runs and revises its number of steps. A revision names the
step from which it counts and is written to plan.json before that step: a resumed training reads it there and takes the
very same steps.

The learning rate continues from its current value. With `n` steps planned and the schedule at position `p`, a revision
at step `r` to `m` steps moves the rest of the schedule over the rest of the steps:

    position(s) = p + (s - r) (n - 1 - p) / (m - 1 - r)        for r <= s < m

so that the rate makes no jump, and the last step has the rate that the schedule gives to its last.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.progress import time_without_once
from llmanac.train.schedules import Schedule

LOOK = 0.03  # fraction of the budget between two looks
SHORTEST = 0.5  # seconds between two looks, at least: shorter ones see the disk and not the speed
FIRST = 0.1  # fraction of the budget, or of the estimated steps, after which an estimate is replaced at the latest
LOOKS = 3  # the speed is that of so many of the last looks: one slow moment is no slow machine
BREAK = 2.0  # unless a step takes so many times as long as over those looks: then only the last one counts
EARLY, LATE = 0.85, 1.06  # an expected end between these fractions of the budget is left as it is
PAUSES = 0.5  # fraction of the time left for evaluations and checkpoints: a single slow write must not decide
SPARE = 0.97  # fraction of a budget that is planned: the rest is for checkpoints and varying speed
FLOOR = 0.04  # fraction of the budget planned for steps where none is left: the rate has to decay

now: Callable[[], float] = time_without_once


@dataclass(frozen=True)
class Revision:
    """One change of the number of steps.

    Attributes:
        step: the first step that it decides, counted from 0.
        before, steps: how many steps the training had until then, and has from then on.
        step_seconds: what a step took when it was made.
    """

    step: int
    before: int
    steps: int
    step_seconds: float


def revised(schedule: Schedule, steps: int, revisions: Sequence[Revision]) -> Schedule:
    """The schedule of a training of `steps` steps with its revisions: a function of the step, as every schedule."""
    if not revisions:
        return schedule
    knots = [(0, 0.0, steps)]  # from which step on, at which position of the schedule, in how many steps
    for revision in revisions:
        knots.append((revision.step, _position(knots, revision.step, steps), revision.steps))
    return lambda step: schedule(_position(knots, step, steps))


def _position(knots: Sequence[tuple[int, float, int]], step: float, planned: int) -> float:
    begin, position, steps = next(knot for knot in reversed(knots) if knot[0] <= step)
    last = planned - 1
    if steps - 1 <= begin:
        return float(last)
    return position + (step - begin) * (last - position) / (steps - 1 - begin)


class Pace:
    """How fast a training goes, and what that means for its end.

    Args:
        budget: seconds that the training may take in all its sessions.
        spent: those that earlier sessions took, and what this one took until now.
        settled: whether the number of steps is more than an estimate.
    """

    def __init__(self, budget: float, spent: float = 0.0, *, settled: bool = True) -> None:
        self.budget, self._settled = budget, settled
        self._began = now() - spent
        self._looked = self._began
        self._looks: deque[tuple[float, int]] = deque(maxlen=LOOKS)
        self._steps, self._paused = 0, 0.0  # since the last look
        self._pause = 0.0  # what an evaluation with its checkpoint took, the last time
        self._first = True

    @property
    def elapsed(self) -> float:
        """Seconds of the budget that are gone."""
        return now() - self._began

    def stepped(self) -> None:
        """A step is done. The first of a session is left out: it allocates and compiles."""
        self._steps += 1
        if self._first:
            self._first = False
            if not self._settled and now() - self._looked > FIRST * self.budget:
                return  # there may be no time for another to be timed
            self._begin()

    def paused(self, seconds: float) -> None:
        """What comes every so many steps (an evaluation, a checkpoint) took so long."""
        self._pause, self._paused = seconds, self._paused + seconds

    def _begin(self) -> None:
        self._looked, self._steps, self._paused = now(), 0, 0.0

    def look(self, step: int, steps: int, every: int) -> Revision | None:
        """The revision that is due after `step` of `steps` steps, with a pause after every `every`; None for none.

        A training that is late gets fewer steps, never more, and one that is early gets more. An estimate is replaced
        as soon as there is something to see.
        """
        apart = SHORTEST, LOOK * self.budget
        waited = now() - self._looked >= (max(apart) if self._settled else min(apart))
        if not self._steps or not (waited or (not self._settled and step >= FIRST * steps)):
            return None
        self._looks.append((now() - self._looked - self._paused, self._steps))
        self._begin()
        a_step = self._step_seconds()
        pauses = min(self._pause * -(-(steps - step) // every), PAUSES * max(0.0, self.budget - self.elapsed))
        left = steps - step
        ends = (self.elapsed + left * a_step + pauses) / self.budget
        if not a_step or (self._settled and EARLY <= ends <= LATE):
            return None
        room = max(SPARE * self.budget - self.elapsed - pauses, FLOOR * self.budget)
        fitting = max(1, int(room / a_step))
        if self._settled and ((fitting < left) != (ends > LATE) or fitting == left):
            return None
        self._settled = True
        return Revision(step, steps, step + fitting, a_step)

    def _step_seconds(self) -> float:
        seconds, steps = self._looks[-1]
        mean = sum(taken for taken, _ in self._looks) / sum(count for _, count in self._looks)
        if seconds > BREAK * mean * steps:
            self._looks = deque([(seconds, steps)], maxlen=LOOKS)
            return seconds / steps
        return mean


def sentence(label: str, revision: Revision, planned: float | None, budget: float, *, settled: bool = True) -> str:
    """The message about a revision; of the first one where the steps were an estimate, with `settled` false."""
    if not settled:
        return (
            f"{label}: a step takes {revision.step_seconds:.2g} s, so {revision.steps:,} steps fit into {budget:.0f} s"
        )
    against = f" (planned: {planned:.2g} s)" if planned else ""
    return (
        f"{label}: a step takes {revision.step_seconds:.2g} s{against}, so {revision.steps:,} steps instead of "
        f"{revision.before:,}, to end within {budget:.0f} s"
    )


def as_json(revision: Revision) -> dict[str, Any]:
    """A revision as plan.json has it."""
    return {**vars(revision)}


class Rate:
    """Tokens a second; the first step, which allocates and compiles, counts only while it is alone."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.tokens, self.seconds = 0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        if self.first is None:
            self.first = (tokens, seconds)
        else:
            self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds

    def value(self) -> float:
        if self.seconds:
            return self.tokens / self.seconds
        return self.first[0] / self.first[1] if self.first and self.first[1] else 0.0
