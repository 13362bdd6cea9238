"""Studies of tunings: one model and one file of rows; the arms are adapters, or other parts of a tuning.

    llmanac compare adapter --arms lora,prefix,prompt,full --base tuned

The base is a tuning's recipe (`recipes/tune.py`); `full` is the arm that trains the model's own weights, at a tenth of
the rate for adapters where none is stated.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError
from llmanac.core.files import read_json, read_toml, write_json
from llmanac.core.spec import diff, dump, make, patch
from llmanac.lab.axis import Arm, resolve
from llmanac.lab.budget import BudgetError, Plan, Speed
from llmanac.lab.cache import Cache, digest
from llmanac.lab.controlled import PLAN, Question, announce, progress, say_plan, with_steps
from llmanac.lab.deadline import Deadline
from llmanac.lab.trials.tuning import Tried, TuningTrial, step_seconds, step_tokens
from llmanac.lab.tune import tune as sweep
from llmanac.lab.words import settings_words
from llmanac.recipes.tune import RECIPE, TuneSpec, Tuning, is_tuning, own_rate, trained_before
from llmanac.train.plan import settled_numerics

FEWEST = 4  # steps of a tuning that says anything
GLANCE = 3  # steps that are timed
INSTANT = 1e-9  # seconds of a step of which nothing is known
Say = Callable[[str], None]


def tuning_of(base: Any, changes: Mapping[str, Any]) -> TuneSpec | None:
    """The tuning that a base means: a TuneSpec, its data, its file or a tuning's folder, or none but `model` and
    `rows.file` among the changes. None for a base of another kind.

    Raises:
        SpecError, DataError: a field or a file that cannot be used.
    """
    if base is None:
        given = {"model": changes.get("model"), "rows.file": changes.get("rows.file")}
        if given["rows.file"] is None:
            return None
        if given["model"] is None:
            raise SpecError("model: rows.file is set, but no model to tune; give -s model=MODEL too")
        data: Any = {"model": given["model"], "rows": {"file": given["rows.file"]}, "adapter": "lora"}
    elif isinstance(base, TuneSpec):
        return patch(base, changes)
    else:
        path = None if isinstance(base, Mapping) or not isinstance(base, (str, Path)) else Path(base)
        if path is not None and (path / RECIPE).is_file():
            path = path / RECIPE
        if path is not None and not path.is_file():
            return None
        data = base if path is None else read_toml(path)
        if not is_tuning(data):
            return None
    return patch(make(TuneSpec, data), changes)


def run_tunings(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Run the study; returns its result as plain data.

    Raises:
        SpecError: what cannot be tuned or held, or a budget that is too small.
    """
    started, base = time.monotonic(), question.base
    if question.hold != "tokens":
        raise SpecError(f"--hold {question.hold}: arms that tune one model read the same rows; leave --hold out")
    if not base.rows.held_out:
        raise SpecError("rows.held_out: 0 leaves nothing to measure the arms on; set it, e.g. to 0.1")
    fixed = settled_numerics(base.train, resolve_device("auto"))
    base = dataclasses.replace(
        base, train=dataclasses.replace(fixed, compile=base.train.compile.replace("auto", "never"))
    )
    arms = [_rated(arm) for arm in resolve(base, question.axis, question.texts)]
    say(f"every arm: {settings_words(dump(base))}")
    announce(arms, question.baseline, say)
    if warning := trained_before(base, *range(question.seeds)):
        say(warning)
    trial = TuningTrial(base)
    definition = digest([trial.parts(arm, 0) for arm in arms] + [question.budget, question.seeds, question.factors])
    stored = read_json(folder / PLAN) if (folder / PLAN).is_file() else {}
    if stored.get("definition") == definition:
        plan = Plan.from_json(stored["plan"])
    else:
        plan = _plan(question, trial, arms, cache, started, say)
        write_json(folder / PLAN, {"definition": definition, "plan": plan.as_json()})
    say_plan(plan, say)
    arms = [with_steps(arm, plan.steps[arm.label], plan.steps[question.baseline]) for arm in arms]
    tuned = None
    if question.factors:
        arms, tuned = sweep(TuningTrial(base, tuning=True), arms, question.factors, cache, progress(say))
    about = {
        "hold": "tokens", "tune": tuned, "plan": plan.as_json(), "base": dump(base),
        "data": {"model": base.model, "rows": base.rows.file, "sha256": trial.identity["rows"]},
    }  # fmt: skip
    expected = {label: plan.seconds_of(label) for label in plan.steps}
    study = question.study(arms, trial, about, seeds=plan.seeds)
    return study.run(cache, progress(say), Deadline(question.budget, started, say, expected))


def _rated(arm: Arm) -> Arm:
    """The arm with the rate that a tuning would choose written down."""
    optimizer = own_rate(arm.spec)
    spec = dataclasses.replace(arm.spec, train=dataclasses.replace(arm.spec.train, optimizer=optimizer))
    moved = diff(arm.spec, spec)
    return dataclasses.replace(arm, spec=spec, diff=arm.diff | moved, held=arm.held | moved)


def _plan(question: Question, trial: TuningTrial, arms: list[Arm], cache: Cache, started: float, say: Say) -> Plan:
    """The steps of `rows.epochs`, or as many as the budget has time for: a short tuning of each arm is timed."""
    work = cache.root / "calibration" / digest([time.time_ns(), *[dump(arm.spec) for arm in arms]])[:16]
    speed: dict[str, Speed] = {}
    tokens: dict[str, int] = {}
    wanted: dict[str, int] = {}
    first = question.baseline

    def fit(speed: Mapping[str, Speed]) -> Plan:
        ratios = {label: tokens[first] / tokens.get(label, tokens[first]) for label in speed}
        return question.plan(
            time.monotonic() - started, speed, ratios, min_steps=min(FEWEST, *wanted.values()),
            stated=question.base.train.steps,
        )  # fmt: skip

    def look(label: str, tried: Tried) -> None:
        """Refuse as soon as the arms seen so far cannot fit; the budget that is named counts the others as this one."""
        tokens[label] = step_tokens(tried.place)
        taken = step_seconds(tried.place)
        likely = Speed(_a_step(taken) or INSTANT, 0.0)
        try:
            # the first step allocates: it says only whether time is left
            fit(speed | {label: likely if len(taken) > 1 else Speed(INSTANT, 0.0)})
        except BudgetError:
            fit({arm.label: speed.get(arm.label, likely) for arm in arms})
            raise

    try:
        for arm in sorted(arms, key=lambda arm: arm.label != first):  # the others' steps are counted in the baseline's
            number = len(speed)
            wanted[arm.label] = Tuning(arm.spec, work / f"steps-{number}", "cpu", say).planned_steps()
            taken, outside = trial.rehearse(
                with_steps(arm, GLANCE), work / str(number), functools.partial(look, arm.label)
            )
            slowest = max((s.step_seconds for s in speed.values()), default=1e-3)
            speed[arm.label] = Speed(_a_step(taken) or slowest, outside)
            tokens[arm.label] = step_tokens(work / str(number))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    speed = {arm.label: speed[arm.label] for arm in arms}
    plan = fit(speed)
    ratios = {label: tokens[first] / tokens[label] for label in speed}
    steps = {label: min(count, round(wanted[first] * ratios[label])) for label, count in plan.steps.items()}
    plan = dataclasses.replace(plan, steps=steps)
    runs = plan.seeds + plan.tuning_runs
    return dataclasses.replace(plan, expected_seconds=plan.spent_seconds + runs * sum(map(plan.seconds_of, steps)))


def _a_step(taken: Sequence[float]) -> float | None:
    """Seconds of a step from those of the first ones, of which the first allocates; None where there are none."""
    return statistics.median(taken[1:] or taken) if taken else None
