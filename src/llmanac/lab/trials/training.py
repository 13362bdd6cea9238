"""A trial that trains: the stages of the arm's recipe, measured by its objective on text that all arms share.

Everything but the axis is shared: prepared text (unless the axis is the data or the tokenizer), rows in one order,
initial values by name, and the planned precision, attention form and micro-batch. The replicate is the seed, which
names both the initial values and the order of rows. What is read, and what is measured on documents held out, is the
objective's choice (`recipes/parts.py`).
"""

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.spec import dump
from llmanac.core.types import capabilities
from llmanac.data.tokens import TokenDataset
from llmanac.lab.axis import Arm
from llmanac.lab.budget import Speed
from llmanac.lab.costs import TRAINING_COSTS, model_costs, peak_memory
from llmanac.lab.generation import JudgedGeneration
from llmanac.lab.pairing import RecordingStream, hash_parameters, initial_tensors
from llmanac.lab.prepare import PreparedArms, prepare
from llmanac.lab.probe import Probe, kind_of, stem_of
from llmanac.lab.runner import with_train
from llmanac.lab.sources import run_key
from llmanac.lab.study import Measurement
from llmanac.lab.trials import estimating
from llmanac.metrics import ItemSums, Metric
from llmanac.objectives import MeasuredObjective
from llmanac.recipes.parts import RecipeParts
from llmanac.train.loop import MAY_CHANGE, train
from llmanac.train.metrics import read_metrics

MEASURE_VERSION = 3  # raise it when what is measured below changes its meaning
CHARACTERS = 2.0  # of a token, or more
CURVE_POINTS = 8
CURVE_BYTES = 12_000  # of held-out text that the learning curve is measured on
CODE = (train.__module__, MeasuredObjective.__module__, TokenDataset.__module__)
PROBES = (Probe.__module__, JudgedGeneration.__module__)


def own_texts(arms: Sequence[Arm], prepared: PreparedArms, root: Path) -> dict[str, PreparedArms]:
    """The text of every arm whose data or tokenizer is not the base's, measured on what the base holds out.

    Raises:
        DataError: an arm without text, or one that would train on documents that are held out.
    """
    own = [arm for arm in arms if any(path.startswith(("data", "tokenizer")) for path in arm.diff)]
    return {arm.label: prepare(arm.spec, root, prepared) for arm in own}


def shared_metrics(
    arms: Sequence[Arm], text: Callable[[Arm], PreparedArms], device: torch.device
) -> tuple[Metric, ...]:
    """What the objectives of all arms measure, in the order of the first one.

    Raises:
        SpecError: two objectives that measure nothing alike.
    """
    by_arm = {arm.label: RecipeParts(arm.spec, text(arm), device).metrics for arm in arms}
    first, *others = by_arm
    shared = tuple(metric for metric in by_arm[first] if all(metric in by_arm[other] for other in others))
    if not shared:
        measured = "; ".join(f"{arm} measures {', '.join(m.name for m in found)}" for arm, found in by_arm.items())
        raise SpecError(f"--arms: these have no metric in common ({measured}); compare objectives that share one")
    return shared


class TrainingTrial:
    """Trains an arm under a seed, or estimates it where its model has no steps (`trials/estimating.py`).

    Args:
        prepared: the base's text; texts: by arm, that of arms which have their own.
        arms: those of the study; their objectives decide the metrics.
        tuning: measure the result on the tuning texts.
        probes: what is measured instead of the objectives' own metrics, where these cannot be compared.
        generation: what the models then write, and its judge; not measured for the tuning.
    """

    costs: tuple[Metric, ...] = TRAINING_COSTS
    replicate = "seed"

    def __init__(
        self, prepared: PreparedArms, device: str = "auto", *, arms: Sequence[Arm] = (),
        texts: Mapping[str, PreparedArms] | None = None, tuning: bool = False, probes: Sequence[Probe] = (),
        generation: JudgedGeneration | None = None,
    ) -> None:  # fmt: skip
        self.prepared, self.device, self.tuning = prepared, resolve_device(device), tuning
        self.own = dict(texts or {})
        self.probes, self.generation = tuple(probes), generation
        self.metrics = tuple(probe.metric for probe in self.probes)
        self.metrics += generation.metrics if generation else ()
        if arms and not self.probes:
            self.metrics = shared_metrics(arms, self.text, self.device)

    @property
    def texts(self) -> list[str]:
        """What is measured on."""
        return self.prepared.tuning if self.tuning else self.prepared.report

    def text(self, arm: Arm) -> PreparedArms:
        """What an arm reads: the base's text, or its own."""
        return self.own.get(arm.label, self.prepared)

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        if estimating.is_estimated(arm):
            return estimating.parts(self.text(arm), arm, MEASURE_VERSION, self.tuning)
        recipe = arm.spec
        settings = {k: v for k, v in dump(recipe.train).items() if k not in MAY_CHANGE}
        return run_key(
            "training", [recipe.model, recipe.objective, recipe.train], CODE + (PROBES if self.probes else ()),
            measure=MEASURE_VERSION, model=dump(recipe.model), objective=dump(recipe.objective), train=settings,
            seed=seed, data=self.text(arm).identity, tuning=self.tuning, device=str(self.device),
            probes=[probe.identity for probe in self.probes],
            generation=self.generation.identity if self.generation and not self.tuning else None,
        )  # fmt: skip

    def build(self, arm: Arm, seed: int) -> tuple[Any, Any, Any]:
        """`(model with its initial values, source, objective)` of an arm."""
        stages = self.stages(arm)
        return stages.model(seed), RecordingStream(stages.rows(seed), lambda: stages.rows(seed)), stages.objective

    def stages(self, arm: Arm) -> RecipeParts:
        """The stages of an arm's recipe, on its text."""
        return RecipeParts(arm.spec, self.text(arm), self.device)

    def initial(self, arm: Arm, seed: int) -> dict[str, Any]:
        """The tensors that an arm starts from, built again."""
        return initial_tensors(self.stages(arm).model(seed))

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train, or go on with a training that was killed, then measure."""
        stages = self.stages(arm)
        if estimating.is_estimated(arm):
            return estimating.measure(stages, arm, stages.held_out(self.texts), self._prompt(arm))
        every = max(1, arm.spec.train.steps // CURVE_POINTS)
        spec = dataclasses.replace(arm.spec.train, checkpoint_every=arm.spec.train.checkpoint_every or every)
        model, source, objective = self.build(arm, seed)
        parameters = hash_parameters(model)
        primary = (self.metrics or stages.metrics)[0]
        done = train(
            model, source, objective, spec, work, seed=seed, evaluate=self._curve_score(stages, primary),
            evaluate_every=every, watch=watched(primary), label=f"{arm.label}, seed {seed}",
        )  # fmt: skip
        model.eval()
        found = self._found(stages, model, seed)
        flops = model.flops_per_token if capabilities(model).counts_flops else None
        costs = model_costs(model, self._prompt(arm), done.tokens, done.seconds) | {"steps": done.steps}
        costs["train_flops"] = flops and flops(spec.length) * done.tokens
        curve = _curve(read_metrics(work), primary.name)
        pairing = {"parameters": parameters, "rows": source.hashes}
        costs["peak_memory"] = peak_memory(model, objective, done.spec, next(self.build(arm, seed)[1]), work)
        return Measurement({name: [items.mean] for name, items in found.items()}, costs, curve, pairing)

    def _found(self, stages: RecipeParts, model: Any, seed: int) -> dict[str, ItemSums]:
        """The metrics of a trained model."""
        if not self.probes:
            return stages.measure(model, stages.held_out(self.texts))
        objective = stages.recipe.objective
        reads = kind_of(objective) or "causal"
        found = {probe.metric.name: probe.score(model, reads) for probe in self.probes}
        if self.generation and not self.tuning:
            found |= self.generation.score(model, stem_of(objective), seed)
        return {name: ItemSums([value], [1.0]) for name, value in found.items()}

    def step_tokens(self, arm: Arm, steps: int = 8) -> float:
        """Places of a step's batches as training counts them: an objective may write a token of its row twice."""
        stages, size = self.stages(arm), arm.spec.train.micro_batch or arm.spec.train.rows
        source, total = stages.rows(0), 0
        for rows in (next(source) for _ in range(steps)):
            total += sum(
                math.prod(stages.objective.collate(rows[at : at + size]).shape) for at in range(0, len(rows), size)
            )
        return total / steps

    def read_outside(self) -> float:
        """About how many tokens a run reads outside its steps: the held-out text at every point of its curve."""
        return (CURVE_POINTS + 1) * sum(len(text) for text in self.texts) / CHARACTERS

    def rehearse(self, arm: Arm, steps: int, work: Path) -> list[float]:
        """Seconds of each step of a short run with nothing else in it, the first ones left out where there are more.

        Empty where the first step diverges.
        """
        model, source, objective = self.build(arm, 0)
        spec = dataclasses.replace(arm.spec.train, steps=steps, checkpoint_every=steps)
        with contextlib.suppress(TrainingError):  # an arm that diverges fails in its runs; its first steps have times
            train(model, source, objective, spec, work, seed=0, resume=False, label=f"calibrate {arm.label}")
        taken = [line["seconds"] for line in read_metrics(work) if "seconds" in line]
        return taken[max(0, min(5, steps // 3, len(taken) - 1)) :]

    def _prompt(self, arm: Arm) -> list[int]:
        ids = self.text(arm).tokenizer.encode(self.texts[0])
        return [int(i) for i in ids[:16]] or [0]

    def _curve_score(self, stages: RecipeParts, metric: Metric) -> Callable[[Any], dict[str, float]]:
        """Measures a small part of the held-out text, for the curve only."""
        texts, left = [], CURVE_BYTES
        for text in self.texts:
            data = text.encode("utf-8")[:left]
            texts.append(data.decode("utf-8", errors="ignore"))
            left -= len(data)
            if left <= 0:
                break
        held_out = None if self.probes else stages.held_out(texts)

        def score(model: Any) -> dict[str, float]:
            if held_out is None:
                value = self.probes[0].score(model, kind_of(stages.recipe.objective) or "causal")
            else:
                value = stages.measure(model, held_out)[metric.name].mean
            return {metric.name: value} | ({watched(metric): -value} if metric.better == "higher" else {})

        return score


def watched(metric: Metric) -> str:
    """The name under which training watches a metric: there lower is better."""
    return metric.name if metric.better == "lower" else f"minus_{metric.name}"


def _curve(lines: list[dict[str, Any]], metric: str) -> list[dict[str, float]]:
    """Points of the held-out curve, with the tokens and the training seconds that led to each."""
    points, tokens, seconds = [], 0, 0.0
    for line in lines:
        if "seconds" in line:
            tokens, seconds = line["tokens"], seconds + line["seconds"]
        if line.get(f"evaluate_{metric}") is not None:
            value = line[f"evaluate_{metric}"]
            points.append({"step": line["step"], "tokens": tokens, "seconds": round(seconds, 3), "value": value})
    return points


def calibrate(trial: TrainingTrial, arms: list[Arm], work: Path, *, steps: int) -> dict[str, Speed]:
    """Each arm's step time, measured in interleaved rounds, and what a run costs outside its steps.

    The fixed part is a complete short trial, measured once for each arm: it evaluates as often as a long one. An
    estimated arm has no steps, so all its time is fixed.
    """
    import time

    taken: dict[str, list[float]] = {arm.label: [] for arm in arms}
    stepping = estimating.trained(arms)
    for turn in range(2):
        for arm in stepping if turn % 2 == 0 else stepping[::-1]:
            taken[arm.label] += trial.rehearse(arm, max(2, steps), work / "calibrate")
    speed: dict[str, Speed] = {}
    steps_of = known_seconds({arm.label: taken[arm.label] for arm in stepping}, statistics.fmean)
    for arm in arms:
        short = dataclasses.replace(arm, spec=with_train(arm.spec, steps=CURVE_POINTS))
        begin = time.perf_counter()
        with contextlib.suppress(TrainingError):
            trial.measure(short, 0, work / f"fixed-{len(speed)}")
        step = steps_of.get(arm.label, 0.0)
        fixed = time.perf_counter() - begin - CURVE_POINTS * step
        speed[arm.label] = Speed(step, max(0.0, fixed))
    return speed


def known_seconds(taken: Mapping[str, Sequence[float]], of: Callable[[Sequence[float]], float]) -> dict[str, float]:
    """A step's seconds by arm; an arm without a finite first step gets those of the slowest other one."""
    known = {label: of(found) for label, found in taken.items() if found}
    return {label: known.get(label, max(known.values(), default=1e-3)) for label in taken}
