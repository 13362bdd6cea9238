"""Models that are trained, as a study runs them: settled once, calibrated, planned from the budget.

Precision, attention form and steps are written to `plan.json` before the first run and reused: when a study is
continued, they do not depend on how busy the machine is.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.spec import diff, dump, make, patch
from llmanac.lab.axis import Arm, resolve
from llmanac.lab.budget import MIN_STEPS, BudgetError, Speed, StudyPlan
from llmanac.lab.cache import StudyCache
from llmanac.lab.generation import make_generation, without_degenerate
from llmanac.lab.hold import hold_parameters, parameters_of, step_ratios
from llmanac.lab.prepare import PreparedArms, prepare
from llmanac.lab.probe import kind_of, make_probes, needed, without_verdict
from llmanac.lab.runner import RunnerRequest, Say, Stepping, with_steps, with_train
from llmanac.lab.smaller import counted_speed, slower, smaller_base, with_floors
from llmanac.lab.sources import fingerprint
from llmanac.lab.trials import estimating
from llmanac.lab.trials.training import CODE, TrainingTrial, calibrate, known_seconds, own_texts
from llmanac.lab.words import settings_words
from llmanac.recipes.spec import RecipeSpec
from llmanac.train import TrainSpec
from llmanac.train.plan import plan as settle
from llmanac.train.plan import settled_numerics

GLANCE = 3  # steps of the first look at how long a step takes
SURELY = 3.0  # a step takes at least a third of what is counted


class ControlledTrial(TrainingTrial, Stepping):
    """The training trial of a question: the base is settled once, and every arm gets its steps from one plan.

    Raises:
        SpecError: arms that differ outside the axis, or a hold that cannot be met.
    """

    def __init__(self, question: RunnerRequest, cache: StudyCache, say: Say) -> None:
        # a request that cannot be met is refused before any work
        asked = resolve(question.base, question.axis, question.texts)
        estimating.refuse(asked, question.hold)
        self.base = question.base
        if needed([arm.spec.objective for arm in asked]):
            self.base = _with_tokens(question.base, asked)
            asked = resolve(self.base, question.axis, question.texts)
        prepared = prepare(self.base, cache.root / "data")
        texts = own_texts(asked, prepared, cache.root / "data")
        objectives = [arm.spec.objective for arm in asked]
        probes = make_probes(prepared, objectives, self.base.train.length, question.probes)
        if question.judge and not probes:
            raise SpecError("--judge: these arms are compared by their loss, and nothing that they write is judged")
        judged = make_generation(prepared, self.base.train.length, question.judge) if probes else None
        super().__init__(prepared, self.base.device, arms=asked, texts=texts, probes=probes, generation=judged)
        self.question, self.say, self.vocabulary = question, say, prepared.tokenizer.vocab_size
        for arm in estimating.trained(asked):
            try:
                parameters_of(arm.spec.model, self.text(arm).tokenizer.vocab_size)
            except SpecError as error:
                raise SpecError(f"arm {arm.label!r}: {error}") from None
        if question.hold in ("params", "flops") and any(
            t.tokenizer.vocab_size != self.vocabulary for t in texts.values()
        ):
            raise SpecError(f"--hold {question.hold}: the arms' vocabularies differ in size; use --hold tokens or time")
        parts = [part for arm in asked for part in (arm.spec.model, arm.spec.objective, arm.spec.train)]
        code = fingerprint(parts, CODE)  # other code takes other times
        identity = "/".join(text.identity for text in (prepared, *texts.values()))
        self.definition = [dump(self.base), identity, code]
        say(_base_words(self.base, prepared))

    def settle(self, known: Any) -> Any:
        """The base with its precision and attention form, and the arms."""
        question = self.question
        self.base = make(RecipeSpec, known["base"], "base") if known else _settle_base(question, self.base, self)
        if settings := settings_words(dump(self.base)):
            self.say(f"every arm: {settings}")
        arms = resolve(self.base, question.axis, question.texts)
        if question.axis.name == "recipe":
            trains = {
                arm.label: make(TrainSpec, known["trains"][arm.label], "train") if known else None for arm in arms
            }
            arms = [_settle_arm(arm, self.base, trains[arm.label], self) for arm in arms]
        if question.hold == "params":
            arms = hold_parameters(arms, self.base, question.axis, question.baseline, self.vocabulary)
        self.arms = arms
        self.about = {
            "base": dump(self.base), "data": self.prepared.record(), "min_steps": question.min_steps,
            **({"texts": {label: text.record() for label, text in self.own.items()}} if self.own else {}),
        }  # fmt: skip
        return {"base": dump(self.base), "trains": {arm.label: dump(arm.spec.train) for arm in arms}}

    def plan(self, question: RunnerRequest, started: float, work: Path, say: Say) -> StudyPlan:
        """Calibrate, and plan. Raises SpecError: a budget that is too small, with flags for a base that fits."""
        arms = [with_steps(arm, 1) for arm in self.arms]
        places = {a.label: self.step_tokens(a) for a in arms} if question.hold == "flops" else None

        def fit(speed: Mapping[str, Speed]) -> StudyPlan:
            seconds = {label: s.step_seconds for label, s in speed.items()}
            ratios = step_ratios(question.hold, self.arms, question.baseline, self.vocabulary, seconds, places)
            spent, stated = time.monotonic() - started, question.base.train.steps
            return question.plan(spent, speed, ratios, min_steps=question.min_steps, stated=stated)

        stepping = estimating.trained(arms)
        speed = {arm.label: Speed(0.0, 0.0) for arm in arms}
        try:
            # A budget that is far too small is refused at once, by this machine's rate, or after a few steps: not
            # after a calibration that is longer than the budget.
            read = self.read_outside()
            counted = {a.label: counted_speed(a.spec, self.vocabulary, self.device, read) for a in stepping}
            speed |= counted
            try:
                fit({label: slower(s, 1 / SURELY) for label, s in speed.items()})
            except BudgetError:
                fit(speed)
            glance = known_seconds({arm.label: self.rehearse(arm, GLANCE, work) for arm in stepping}, min)
            speed |= {label: slower(s, glance[label] / s.step_seconds) for label, s in counted.items()}
            fit(speed)
            speed = calibrate(self, arms, work, steps=20 if question.min_steps >= MIN_STEPS else GLANCE)
            return fit(speed)
        except BudgetError as error:
            offered = smaller_base(self.base, question.axis.path, self.vocabulary, speed, fit)
            raise SpecError(f"{error}{f': {offered} would fit' if offered else ''}") from None

    def finish(self, result: dict[str, Any]) -> None:
        """Floors of the text and of the probes, and what gets no verdict because of them."""
        with_floors(result, self.prepared)
        if self.probes:
            first = self.arms[0]
            model, reads = self.stages(first).model(0), kind_of(first.spec.objective) or "causal"
            without_verdict(result, {probe.metric.name: probe.floors(model, reads) for probe in self.probes})
        if self.generation:
            without_degenerate(result, self.generation)


def _with_tokens(base: Any, arms: Sequence[Arm]) -> Any:
    """The base with the special tokens of every arm's objective, so that all arms read the same tokens."""
    tokens = base.tokenizer.special_tokens
    needed = [token for arm in arms for token in arm.spec.objective.special_tokens]
    return patch(base, {"tokenizer.special_tokens": list(dict.fromkeys((*tokens, *needed)))})


def _base_words(base: Any, prepared: PreparedArms) -> str:
    """The base in a line: its name and sizes."""
    size = prepared.tokenizer.vocab_size
    model = "" if base.model.estimated else f"{parameters_of(base.model, size):,} parameters, "
    return (
        f"base: {base.name}: {model}{base.train.batch_tokens:,} tokens a step, "
        f"{len(prepared.dataset):,} tokens of text, vocabulary of {size:,}"
    )


def _settle_base(question: RunnerRequest, base: Any, trial: TrainingTrial) -> Any:
    """The base with precision, attention form and micro-batch settled on one model, for every arm.

    It is the baseline's, or where that is not trained in steps, the largest that is.
    """
    arms = {arm.label: arm for arm in resolve(base, question.axis, question.texts)}
    stepping = estimating.trained(list(arms.values()))
    if not stepping:
        return base
    if question.axis.name == "recipe":
        fixed = settled_numerics(base.train, trial.device)
        return with_train(base, dtype=fixed.dtype, attention=fixed.attention)
    size = trial.prepared.tokenizer.vocab_size
    largest = max(stepping, key=lambda arm: parameters_of(arm.spec.model, size))
    arm = arms[question.baseline] if arms[question.baseline] in stepping else largest
    settled = _settled(arm.spec.train, trial, arm)
    names = ("dtype", "attention", "micro_batch", "compile")
    return with_train(base, **{name: getattr(settled, name) for name in names})


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
