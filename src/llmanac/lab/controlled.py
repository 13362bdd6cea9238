"""A study of models that are trained: settle, calibrate, plan, tune, then run the arms as a `Study`.

What is measured is written to `plan.json` before the first run and reused: when a study is continued, precision,
attention form and steps do not depend on how busy the machine is.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmanac.core.errors import SpecError
from llmanac.core.files import read_json, write_json
from llmanac.core.spec import diff, dump, make, patch
from llmanac.lab.axis import Arm, resolve
from llmanac.lab.budget import MIN_STEPS, BudgetError, Plan, Speed, format_duration, round_up
from llmanac.lab.cache import Cache, digest
from llmanac.lab.deadline import Deadline
from llmanac.lab.floor import with_floors
from llmanac.lab.generation import make_generation, without_degenerate
from llmanac.lab.hold import hold_parameters, parameters_of, step_ratios
from llmanac.lab.prepare import Prepared, prepare
from llmanac.lab.probe import kind_of, make_probes, needed, without_verdict
from llmanac.lab.runner import PLAN, Question, Say, announce, progress, say_plan, with_steps
from llmanac.lab.smaller import counted_speed, slower, smaller_base
from llmanac.lab.sources import fingerprint
from llmanac.lab.trials import estimating
from llmanac.lab.trials.training import CODE, TrainingTrial, calibrate, known_seconds, own_texts
from llmanac.lab.tune import tune
from llmanac.lab.words import settings_words
from llmanac.train import TrainSpec
from llmanac.train.plan import plan as settle
from llmanac.train.plan import settled_numerics

GLANCE = 3  # steps of the first look at how long a step takes
SURELY = 3.0  # a step takes at least a third of what is counted


def run_controlled(question: Question, folder: Path, cache: Cache, say: Say) -> dict[str, Any]:
    """Run the study; returns its result as plain data.

    Raises:
        SpecError: arms that differ outside the axis, a hold that cannot be met, a budget that is too small.
    """
    started = time.monotonic()
    # a request that cannot be met is refused before any work
    asked = resolve(question.base, question.axis, question.texts)
    estimating.refuse(asked, question.hold)
    if needed([arm.spec.objective for arm in asked]):
        question = dataclasses.replace(question, base=_with_tokens(question.base, asked))
        asked = resolve(question.base, question.axis, question.texts)
    prepared = prepare(question.base, cache.root / "data")
    texts = own_texts(asked, prepared, cache.root / "data")
    objectives = [arm.spec.objective for arm in asked]
    probes = make_probes(prepared, objectives, question.base.train.length, question.probes)
    if question.judge and not probes:
        raise SpecError("--judge: these arms are compared by their loss, and nothing that they write is judged")
    generation = make_generation(prepared, question.base.train.length, question.judge) if probes else None
    shared: dict[str, Any] = {"arms": asked, "texts": texts, "probes": probes}
    trial = TrainingTrial(prepared, question.base.device, **shared, generation=generation)
    vocabulary = prepared.tokenizer.vocab_size
    if question.hold in ("params", "flops") and any(t.tokenizer.vocab_size != vocabulary for t in texts.values()):
        raise SpecError(f"--hold {question.hold}: the arms' vocabularies differ in size; use --hold tokens or time")
    code = fingerprint([part for arm in asked for part in (arm.spec.model, arm.spec.objective, arm.spec.train)], CODE)
    say(_base_words(question.base, prepared))
    record = _Record(folder, question, [prepared, *texts.values()], code)
    base = record.settled_base or _settle_base(question, trial)
    if settings := settings_words(dump(base)):
        say(f"every arm: {settings}")
    arms = resolve(base, question.axis, question.texts)
    if question.axis.name == "recipe":
        arms = [_settle_arm(arm, base, record.settled_train(arm.label), trial) for arm in arms]
    if question.hold == "params":
        arms = hold_parameters(arms, base, question.axis, question.baseline, vocabulary)
    announce(arms, question.baseline, say)
    plan = record.reusable(question, say)
    if plan is None:
        plan = _plan(question, trial, arms, cache, started, vocabulary)
        record.write(base, arms, plan)
    say_plan(plan, say)
    arms = [with_steps(arm, plan.steps[arm.label], plan.steps[question.baseline]) for arm in arms]
    tuned = None
    if question.factors:
        tuning = TrainingTrial(prepared, question.base.device, **shared, tuning=True)
        swept, tuned = tune(tuning, estimating.trained(arms), question.factors, cache, progress(say))
        best = {arm.label: arm for arm in swept}
        arms = [best.get(arm.label, arm) for arm in arms]
    about = {
        "hold": question.hold, "tune": tuned, "plan": plan.as_json(), "base": dump(base), "data": prepared.record(),
        "min_steps": question.min_steps,
        **({"texts": {label: text.record() for label, text in texts.items()}} if texts else {}),
    }  # fmt: skip
    study = question.study(arms, trial, about, seeds=plan.seeds, initial=trial.initial)
    expected = {label: plan.seconds_of(label) for label in plan.steps}
    result = study.run(cache, progress(say), Deadline(question.budget, started, say, expected))
    with_floors(result, prepared)
    if probes:
        first = arms[0]
        model, reads = trial.stages(first).model(0), kind_of(first.spec.objective) or "causal"
        without_verdict(result, {probe.metric.name: probe.floors(model, reads) for probe in probes})
    if generation:
        without_degenerate(result, generation)
    return result


def _with_tokens(base: Any, arms: Sequence[Arm]) -> Any:
    """The base with the special tokens of every arm's objective, so that all arms read the same tokens."""
    tokens = getattr(base.tokenizer, "special_tokens", None)
    if tokens is None:
        return base
    needed = [token for arm in arms for token in arm.spec.objective.special_tokens]
    return patch(base, {"tokenizer.special_tokens": list(dict.fromkeys((*tokens, *needed)))})


def _base_words(base: Any, prepared: Prepared) -> str:
    """The base in a line: its name and sizes."""
    size = prepared.tokenizer.vocab_size
    model = "" if getattr(base.model, "estimated", False) else f"{parameters_of(base.model, size):,} parameters, "
    return (
        f"base: {base.name}: {model}{base.train.batch_tokens:,} tokens a step, "
        f"{len(prepared.dataset):,} tokens of text, vocabulary of {size:,}"
    )


def _train(recipe: Any, **changes: Any) -> Any:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def _settle_base(question: Question, trial: TrainingTrial) -> Any:
    """The base with precision, attention form and micro-batch settled on one model, for every arm.

    It is the baseline's, or where that is not trained in steps, the largest that is.
    """
    arms = {arm.label: arm for arm in resolve(question.base, question.axis, question.texts)}
    stepping = estimating.trained(list(arms.values()))
    if not stepping:
        return question.base
    if question.axis.name == "recipe":
        fixed = settled_numerics(question.base.train, trial.device)
        return _train(question.base, dtype=fixed.dtype, attention=fixed.attention)
    size = trial.prepared.tokenizer.vocab_size
    largest = max(stepping, key=lambda arm: parameters_of(arm.spec.model, size))
    arm = arms[question.baseline] if arms[question.baseline] in stepping else largest
    settled = _settled(arm.spec.train, trial, arm)
    names = ("dtype", "attention", "micro_batch", "compile")
    return _train(question.base, **{name: getattr(settled, name) for name in names})


def _settle_arm(arm: Arm, base: Any, known: TrainSpec | None, trial: TrainingTrial) -> Arm:
    """Choose, once, the settings that a complete recipe leaves open."""
    if estimating.is_estimated(arm):
        return arm
    settled = known or _settled(arm.spec.train, trial, arm)
    spec = dataclasses.replace(arm.spec, train=dataclasses.replace(settled, steps=None))
    return dataclasses.replace(arm, spec=spec, diff=diff(base, spec))


def _settled(train: TrainSpec, trial: TrainingTrial, arm: Arm) -> TrainSpec:
    model, source, objective = trial.build(arm, 0)
    # Compiling is left to recipes that state it: it would change a study's step times halfway through a first run.
    open_spec = dataclasses.replace(
        settled_numerics(train, trial.device),
        steps=train.steps or 1,
        compile="never" if train.compile == "auto" else train.compile,
    )
    return settle(model, source, objective, open_spec).spec


def _plan(
    question: Question, trial: TrainingTrial, arms: Sequence[Arm], cache: Cache, started: float, vocabulary: int
) -> Plan:
    work = cache.root / "calibration" / digest([str(time.time_ns()), *[dump(arm.spec) for arm in arms]])[:16]
    short = [with_steps(arm, 1) for arm in arms]
    places = {a.label: trial.step_tokens(a) for a in short} if question.hold == "flops" else None

    def fit(speed: Mapping[str, Speed]) -> Plan:
        seconds = {label: s.step_seconds for label, s in speed.items()}
        ratios = step_ratios(question.hold, arms, question.baseline, vocabulary, seconds, places)
        spent, stated = time.monotonic() - started, question.base.train.steps
        return question.plan(spent, speed, ratios, min_steps=question.min_steps, stated=stated)

    stepping = estimating.trained(short)
    speed = {arm.label: Speed(0.0, 0.0) for arm in short}
    try:
        # A budget that is far too small is refused at once, by this machine's rate, or after a few steps: not after a
        # calibration that is longer than the budget.
        read = trial.read_outside()
        counted = {a.label: counted_speed(a.spec, vocabulary, trial.device, read) for a in stepping}
        speed |= counted
        try:
            fit({label: slower(s, 1 / SURELY) for label, s in speed.items()})
        except BudgetError:
            fit(speed)
        glance = known_seconds({arm.label: trial.rehearse(arm, GLANCE, work) for arm in stepping}, min)
        speed |= {label: slower(s, glance[label] / s.step_seconds) for label, s in counted.items()}
        fit(speed)
        speed = calibrate(trial, short, work, steps=20 if question.min_steps >= MIN_STEPS else GLANCE)
        return fit(speed)
    except BudgetError as error:
        offered = smaller_base(question.base, question.axis.path, vocabulary, speed, fit)
        raise SpecError(f"{error}{f': {offered} would fit' if offered else ''}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Record:
    """`plan.json`: what was measured for a question, so that the same question is not measured again.

    A question with more seeds keeps the steps, and its budget is for the additional seeds: this continues an
    inconclusive study. Another budget for the same seeds makes a new plan.
    """

    def __init__(self, folder: Path, question: Question, data: Sequence[Prepared], code: Mapping[str, str]) -> None:
        self.path = folder / PLAN
        self.definition = digest({
            "axis": [question.axis.name, question.axis.path],
            "arms": [[t.label, t.value, list(t.patches or ())] for t in question.texts],
            "base": dump(question.base), "baseline": question.baseline, "hold": question.hold,
            "factors": list(question.factors), "min_steps": question.min_steps,
            "data": "/".join(text.identity for text in data),
            "code": dict(code),  # other code takes other times
            "threads": torch.get_num_threads(),
        })  # fmt: skip
        found = read_json(self.path) if self.path.is_file() else {}
        self._found = found if found.get("definition") == self.definition else None

    @property
    def settled_base(self) -> Any:
        """The base as it was settled for this question, or None."""
        if self._found is None:
            return None
        from llmanac.recipes.spec import RecipeSpec

        return make(RecipeSpec, self._found["base"], "base")

    def settled_train(self, label: str) -> TrainSpec | None:
        """The settings chosen for an arm that is a complete recipe, or None."""
        return None if self._found is None else make(TrainSpec, self._found["trains"][label], "train")

    def reusable(self, question: Question, say: Say) -> Plan | None:
        """The earlier plan, if it still fits the question.

        Raises:
            SpecError: more seeds than the budget has time for.
        """
        if self._found is None:
            return None
        plan = Plan.from_json(self._found["plan"])
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
        say(f"going on with the plan in {self.path}: {further} further seeds")
        plan = dataclasses.replace(plan, seeds=question.seeds, expected_seconds=plan.expected_seconds + needed)
        write_json(self.path, self._found | {"plan": plan.as_json()})
        return plan

    def write(self, base: Any, arms: Sequence[Arm], plan: Plan) -> None:
        """Write the plan before the first run."""
        trains = {arm.label: dump(arm.spec.train) for arm in arms}
        known = {"definition": self.definition, "base": dump(base), "trains": trains}
        write_json(self.path, known | {"plan": plan.as_json()})
