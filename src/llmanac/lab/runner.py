"""The one way from a question to a result: resolve, plan, sweep, then run the arms as a `Study`.

A kind of trial is a file in `trials/`: its arms, what an arm measures and costs, and how its steps or items are planned
from the budget. The plan is written to `plan.json` before the first run and reused: when a study is continued, what was
planned does not depend on how busy the machine is.

`--tune lr=3`: every arm gets the same small sweep of its learning rate, on a seed and on texts of their own.

The grid is the same factors for every arm, two apart, around the rate that the arm's recipe states. The sweep is judged
on tuning texts under a seed that the result does not use, so picking the best of it cannot flatter any arm.
"""

import contextlib
import copy
import dataclasses
import functools
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import SpecError
from llmanac.core.lock import locked
from llmanac.core.spec import diff, patch
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, Axis, Hold, methods_of
from llmanac.lab.budget import MIN_STEPS, BudgetError, Deadline, Speed, StudyPlan, format_duration, make_plan, round_up
from llmanac.lab.cache import StudyCache, digest, read_sealed, threads, write_sealed
from llmanac.lab.stats import MARGIN, MIN_REPLICATES, STUDENT, Tests
from llmanac.lab.study import Advance, Study, Trial, attempt, looks_within
from llmanac.lab.words import reason

TUNING_SEED = 1_000_000
MOST = 9


def parse_tune(text: str | None) -> tuple[float, ...]:
    """`lr=3` -> the factors (0.5, 1, 2); None -> ().

    Raises:
        SpecError: another field than lr, or a number outside 2 to 9.
    """
    if text is None:
        return ()
    match = re.fullmatch(r"\s*lr\s*=\s*(\d+)\s*", text)
    if not match or not 2 <= int(match[1]) <= MOST:
        raise SpecError(f"--tune {text!r}: expected lr=N with N from 2 to {MOST}, for example --tune lr=3")
    count = int(match[1])
    return tuple(2.0 ** (i - (count - 1) / 2) for i in range(count))


def scaled(arm: Arm, factor: float) -> Arm:
    """The arm with every learning rate of its optimizer times a factor.

    Raises:
        SpecError: an optimizer without a learning rate.
    """
    optimizer = arm.spec.train.optimizer
    before = {
        f"train.optimizer.{f.name}": getattr(optimizer, f.name)
        for f in dataclasses.fields(optimizer)
        if (f.name == "lr" or f.name.endswith("_lr")) and isinstance(getattr(optimizer, f.name), float)
    }
    if not before:
        raise SpecError(f"--tune: arm {arm.label!r} uses {optimizer.name}, which has no learning rate to tune")
    if factor == 1.0:
        return arm
    after = {path: value * factor for path, value in before.items()}
    moved = {path: (arm.diff.get(path, (before[path], None))[0], value) for path, value in after.items()}
    return dataclasses.replace(arm, spec=patch(arm.spec, after), diff=arm.diff | moved, held=arm.held | moved)


def tune(
    trial: Trial, arms: Sequence[Arm], factors: Sequence[float], cache: StudyCache, advance: Advance | None = None,
) -> tuple[list[Arm], dict[str, Any]]:  # fmt: skip
    """Sweep every arm; returns the arms at their best factor, and the record of the sweep.

    A rate at which training diverges loses. An arm for which every rate diverges keeps the rate it has.
    """
    metric = trial.metrics[0]
    sign = 1 if metric.better == "lower" else -1
    values: dict[str, dict[str, float | None]] = {arm.label: {} for arm in arms}
    for factor in factors:
        for arm in arms:
            tried = scaled(arm, factor)
            found, cached = cache.run(
                trial.parts(tried, TUNING_SEED),
                lambda work, tried=tried: attempt(trial, tried, TUNING_SEED, work),  # type: ignore[misc]
            )
            numbers = found["values"].get(metric.name)
            values[arm.label][f"{factor:g}"] = numbers[0] if numbers else None
            if advance:
                advance(arm.label, TUNING_SEED, cached, found["failed"])
    chosen: dict[str, float] = {}
    for arm in arms:
        done = {f: v for f in factors if (v := values[arm.label][f"{f:g}"]) is not None}
        chosen[arm.label] = min(done, key=lambda f: sign * done[f]) if done else 1.0
    edges = [label for label, factor in chosen.items() if factor in (factors[0], factors[-1])]
    record = {
        "field": "lr", "factors": list(factors), "seed": TUNING_SEED, "values": values, "chosen": chosen,
        "at_the_edge": edges,
    }  # fmt: skip
    return [scaled(arm, chosen[arm.label]) for arm in arms], record


PLAN = "plan.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunnerRequest:
    """The request.

    Attributes:
        baseline: the arm that the others are compared with.
        factors: the sweep of `--tune`, empty where there is none.
        min_steps: fewer steps than this for any arm are refused.
        artefact: the run or model that a post-hoc axis is applied to.
        text_of_base: whether the text is that of a base that was asked for, not that of the artefact.
        looks: numbers of seeds after which `--seeds auto` may end.
        probes: files of labelled texts that the models are probed with; judge: the model that judges what they write.
    """

    axis: Axis
    texts: tuple[ArmText, ...]
    base: Any
    baseline: str
    budget: float
    seeds: int
    hold: Hold = "tokens"
    factors: tuple[float, ...] = ()
    margin: float = MARGIN
    min_steps: int = MIN_STEPS
    artefact: str | None = None
    text_of_base: bool = False
    probes: tuple[str, ...] = ()
    judge: str | None = None
    looks: tuple[int, ...] = ()

    def plan(self, spent: float, speed: Mapping[str, Speed], ratios: Mapping[str, float], **options: Any) -> StudyPlan:
        """`make_plan` for these seeds; of several looks, for as many seeds as fit."""
        for seeds in sorted(self.looks[1:], reverse=True):
            with contextlib.suppress(BudgetError):
                return make_plan(self.budget, spent, seeds, speed, ratios, tuning_runs=len(self.factors), **options)
        least = self.looks[0] if self.looks else self.seeds
        return make_plan(self.budget, spent, least, speed, ratios, tuning_runs=len(self.factors), **options)

    def arms(self, spec_of: Callable[[ArmText], Any] | None = None) -> tuple[Arm, ...]:
        """The arms of an axis that is applied to something finished, each with its difference from the baseline."""
        named = spec_of or functools.partial(methods_of, self.axis.kind)
        specs = {text.label: named(text) for text in self.texts}
        base = specs[self.baseline]
        return tuple(Arm(label, spec, diff(base, spec), {}) for label, spec in specs.items())

    def study(self, arms: Sequence[Arm], trial: Trial, about: Mapping[str, Any], **more: Any) -> Study:
        """The study of these arms under every seed."""
        seeds = more.pop("seeds", self.seeds)
        if self.looks:
            more["looks"] = looks_within(seeds)
        return Study(
            self.axis.name, self.axis, tuple(arms), self.baseline, tuple(range(seeds)), trial, self.margin,
            about=about, **more,
        )  # fmt: skip


class Stepping:
    """Base of trials whose arms take steps (`Trial` says what else they have).

    Attributes:
        arms: the resolved arms; definition: what decides the plan, besides the question; about: for the result.
        initial: the tensors that an arm starts from under a seed, where it can be built again: see `pairing`.
        tuning: whether what is measured is for the sweep of `--tune`, on texts or rows of its own.
    """

    arms: Sequence[Arm]
    definition: Any = None
    about: Mapping[str, Any]
    initial: Any = None
    tuning = False

    def settle(self, known: Any) -> Any:
        """Decide what is measured before the plan; plain data, which is `known` when the study is continued."""
        return None

    def plan(self, question: RunnerRequest, started: float, work: Path, say: Say) -> StudyPlan:
        """The steps of each arm that the budget has time for."""
        raise NotImplementedError

    def with_steps(self, arm: Arm, steps: int, baseline: int) -> Arm:
        """The arm with its planned steps."""
        return with_steps(arm, steps, baseline)

    def finish(self, result: dict[str, Any]) -> None:
        """Add to the result what only all arms together tell."""


class Applied:
    """Base of trials that are applied to something finished; the budget has time for some of their items.

    Attributes:
        arms, about: as of `Stepping`.
        items: what is measured on: documents, passages, questions; words: of the plan, `{}` for how many there are.
        seeds: of each arm, None for those of the question; tests: of the differences.
    """

    arms: Sequence[Arm]
    about: Mapping[str, Any]
    items: Sequence[Any]
    words: str
    seeds: int | None = 1
    tests: Tests = STUDENT

    def fitting(self, question: RunnerRequest, started: float, work: Path) -> int:
        """How many items there is time for: all of them."""
        return len(self.items)

    def take(self, count: int) -> None:
        """Keep the first items only."""
        self.items = self.items[:count]


@contextlib.contextmanager
def _alone(folder: Path, cache: StudyCache, definition: str) -> Iterator[Path]:
    """One process plans and runs a study at a time: the next one finds its plan and its runs.

    Yields a place for what is only timed. What a killed process left there or was writing goes first.
    """
    work = cache.root / "calibration" / definition[:16]
    with locked(work.with_suffix(".lock"), fix="name another --folder"):
        files.sweep(folder)
        shutil.rmtree(work, ignore_errors=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def run_applied(
    make: Callable[..., Any], question: RunnerRequest, folder: Path, cache: StudyCache, say: Say
) -> dict[str, Any]:
    """Run the study of the trial that `make(question, say)` gives; returns its result as plain data."""
    started = time.monotonic()
    trial = make(question, say)
    announce(trial.arms, question.baseline, say)
    decided = [trial.parts(arm, 0) for arm in trial.arms]  # texts or questions among them
    definition = digest([decided, question.budget, question.seeds])
    with _alone(folder, cache, definition) as work:
        path = folder / PLAN
        stored = read_sealed(path) or {}
        count = stored["items"] if stored.get("definition") == definition else None
        if count is None:
            count = trial.fitting(question, started, work)
            write_sealed(path, {"definition": definition, "items": count})
        trial.take(count)
        said = trial.words.format(len(trial.items))
        say(f"plan: {said}")
        data = {**trial.about["data"], "items": len(trial.items)}
        about = {"hold": None, "tune": None, "plan": {"words": said}, **trial.about, "data": data}
        seeds = trial.seeds or question.seeds
        study = question.study(trial.arms, trial, about, seeds=seeds, tests=trial.tests)
        return study.run(cache, progress(say), Deadline(question.budget, started, say))


def run_steps(
    make: Callable[..., Any], question: RunnerRequest, folder: Path, cache: StudyCache, say: Say
) -> dict[str, Any]:
    """Run the study of the trial that `make(question, cache, say)` gives; returns its result as plain data.

    Raises:
        SpecError: arms that differ outside the axis, a hold that cannot be met, a budget that is too small.
    """
    started = time.monotonic()
    trial = make(question, cache, say)
    axis = question.axis
    asked = [[text.label, text.value, list(text.patches or ())] for text in question.texts]
    held = [question.baseline, question.hold, question.factors, question.min_steps, question.looks, threads()]
    definition = digest([trial.definition, axis.name, axis.path, asked, *held])
    with _alone(folder, cache, definition) as work:
        path = folder / PLAN
        stored = read_sealed(path) or {}
        stored = stored if stored.get("definition") == definition else {}
        settled = trial.settle(stored.get("settled"))
        announce(trial.arms, question.baseline, say)
        plan = continued(StudyPlan.from_json(stored["plan"]), question, path, say) if stored else None
        if plan is None:
            plan = trial.plan(question, started, work, say)
        write_sealed(path, {"definition": definition, "settled": settled, "plan": plan.as_json()})
        say_plan(plan, say)
        arms = [trial.with_steps(arm, plan.steps[arm.label], plan.steps[question.baseline]) for arm in trial.arms]
        tuned = None
        if question.factors:
            sweep = copy.copy(trial)
            sweep.tuning = True
            stepping = [arm for arm in arms if plan.speed[arm.label].step_seconds]
            best, tuned = tune(sweep, stepping, question.factors, cache, progress(say))
            chosen = {arm.label: arm for arm in best}
            arms = [chosen.get(arm.label, arm) for arm in arms]
        about = {"hold": question.hold, "tune": tuned, "plan": plan.as_json(), **trial.about}
        expected = {label: plan.seconds_of(label) for label in plan.steps}
        study = question.study(arms, trial, about, seeds=plan.seeds, initial=trial.initial)
        result = study.run(cache, progress(say), Deadline(question.budget, started, say, expected))
        trial.finish(result)
        return result


def continued(plan: StudyPlan, question: RunnerRequest, path: Path, say: Say) -> StudyPlan | None:
    """The earlier plan, if it still fits the question.

    A question with more seeds keeps the steps, and its budget is for the additional seeds: this continues an
    inconclusive study. Another budget for the same seeds makes a new plan.

    Raises:
        SpecError: more seeds than the budget has time for.
    """
    if question.looks or question.seeds <= plan.seeds:
        return plan if question.budget == plan.budget_seconds else None
    further = question.seeds - plan.seeds
    needed = further * sum(plan.seconds_of(label) for label in plan.steps)
    if needed > question.budget:
        raise SpecError(
            f"--seeds {question.seeds}: {further} further seeds at the planned steps take "
            f"{format_duration(needed)}, more than --budget {format_duration(question.budget)}; "
            f"use --budget {round_up(needed)}"
        )
    say(f"going on with the plan in {path}: {further} further seeds")
    return dataclasses.replace(plan, seeds=question.seeds, expected_seconds=plan.expected_seconds + needed)


def announce(arms: Sequence[Arm], baseline: str, say: Say) -> None:
    """Say how each arm differs from the base."""
    for arm in arms:
        say(f"{arm.label}{' (baseline)' if arm.label == baseline else ''}: {arm.describe()}")


def progress(say: Say) -> Advance:
    """Says what is done, a run at a time."""

    def advance(arm: str, seed: int, cached: bool, failed: str) -> None:
        said = ["from the cache"] if cached else [] if failed else ["done"]
        said += [f"failed ({reason(failed)})"] if failed else []
        say(f"seed {seed}, {arm}: {', '.join(said)}")

    return advance


def say_plan(plan: StudyPlan, say: Say) -> None:
    """Say how many steps each arm takes, and how long that is expected to be."""
    if plan.seeds < MIN_REPLICATES:
        say(f"note: {plan.seeds} seeds are too few for a verdict; set --seeds {MIN_REPLICATES} or more")
    for label, steps in plan.steps.items():
        runs = plan.seeds + plan.tuning_runs
        if not plan.speed[label].step_seconds:
            say(f"plan: {label}: estimated once, {format_duration(plan.seconds_of(label))}")
            continue
        say(f"plan: {label}: {runs} runs of {steps:,} steps, {format_duration(plan.seconds_of(label))} each")
    say(f"plan: {format_duration(plan.expected_seconds)} expected of {format_duration(plan.budget_seconds)}")


def with_train(recipe: Any, **changes: Any) -> Any:
    """The recipe with other fields of its training."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def with_steps(arm: Arm, steps: int, baseline: int | None = None) -> Arm:
    """The arm with its planned steps; where they are not the baseline's, that is what `--hold` moved."""
    arm = dataclasses.replace(arm, spec=with_train(arm.spec, steps=steps))
    if baseline in (None, steps):
        return arm
    moved = {"train.steps": (baseline, steps)}
    return dataclasses.replace(arm, diff=arm.diff | moved, held=arm.held | moved)
