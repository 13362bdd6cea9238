"""A trial that tunes a model that is there (`recipes/tune.py`): the arm's adapter, or its own weights, on given rows.

    llmanac compare adapter --arms lora,prefix,prompt,full --base tuned

The base is a tuning's recipe; `full` is the arm that trains the model's own weights, at a tenth of the rate for
adapters where none is stated. The seed names the rows held out, the order of the others and an adapter's initial
values; these are the same for every arm. The replicate is the seed, and what is measured is the loss of the held-out
rows after the tuning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.files import read_toml
from llmanac.core.run_folder import RECIPE, Recipe, RunFolder
from llmanac.core.spec import diff, dump, make, patch
from llmanac.data.pack import PackedStream
from llmanac.lab.axis import Arm, resolve
from llmanac.lab.budget import BudgetError, Speed, StudyPlan
from llmanac.lab.cache import StudyCache
from llmanac.lab.costs import peak_memory
from llmanac.lab.pairing import RecordingStream, hash_parameters
from llmanac.lab.runner import RunnerRequest, Say, Stepping, with_train
from llmanac.lab.sources import run_key
from llmanac.lab.study import Measurement
from llmanac.lab.trials.decoding import file_hash, hash_model
from llmanac.lab.words import settings_words
from llmanac.metrics import ItemSums, Metric
from llmanac.recipes.tune import MODEL, Tuned, TuneSpec, Tuning, is_tuning, own_rate, run_held, trained_before
from llmanac.train.loop import MAY_CHANGE
from llmanac.train.metrics import read_metrics
from llmanac.train.plan import settled_numerics

MEASURE_VERSION = 1  # raise it when what is measured below changes its meaning
TUNING_PART = 4  # one held-out row in so many is for the sweep of `--tune`, the others for the result
FEWEST = 4  # steps of a tuning that says anything
GLANCE = 3  # steps that are timed
INSTANT = 1e-9  # seconds of a step of which nothing is known
COSTS = (
    Metric("parameters", "", "lower", "trained parameters"), Metric("tokens", "", "lower", "training tokens"),
    Metric("steps", "", "lower"), Metric("seconds", "s", "lower", "training time"),
    Metric("train_tokens_per_second", "token/s", "higher", "training speed"),
    Metric("peak_memory", "B", "lower", "peak memory of a step"),
    Metric("written_bytes", "B", "lower", "size of what is written"),
)  # fmt: skip


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


class Tried(Tuning):
    """A tuning that notes what it started from and what it cost.

    Attributes:
        part: of the held-out rows: 0 for the sweep, 1 for the result.
        parameters: hashes of the initial tensors; stream: what hashed the rows; peak: bytes of a step.
        units: what a step reads; wanted: the steps that the recipe states, or those of its epochs.
        found: the metrics.
        look: makes this a rehearsal of a few steps: nothing is measured before them, and this is called after them.
    """

    part = 1
    units = 0.0
    wanted = 0
    stream: Any = None
    peak: float | None = None
    look: Callable[[Tried], None] | None = None

    def attach(self) -> None:
        super().attach()
        self.parameters = hash_parameters(self.load())

    def objective(self) -> Any:
        self.made = super().objective()
        return self.made

    def source(self, rows: Any, objective: Any, budget: float | None) -> Any:
        stream, settled = super().source(rows, objective, budget)
        self.units, self.wanted, self.stream = self.step_units(settled), settled.steps or 0, stream
        if isinstance(stream, PackedStream):
            self.stream = RecordingStream(
                stream,
                lambda: PackedStream(
                    rows.train, length=settled.length, rows=settled.rows, seed=self.asked.seed, packing="whole"
                ),
            )
        return self.stream, settled if self.look is None else dataclasses.replace(settled, steps=GLANCE)

    def row_hashes(self) -> list[str]:
        """Of the first rows that were read."""
        return self.stream.hashes if isinstance(self.stream, RecordingStream) else []

    def step_units(self, settled: Any) -> float:
        """What a step reads, in what arms are to read equally much of: tokens."""
        return float(settled.batch_tokens)

    def check(self) -> None:
        """All that a run does before its first step."""
        rows, objective = self.read(), self.objective()
        self.attach()
        self.source(rows, objective, None)

    def _measure(self, objective: Any, rows: Any, when: str, kept: str = "before.json") -> Any:
        if self.look is None:
            return super()._measure(objective, rows, when, kept)
        if when == "before":
            return ItemSums([0.0], [1.0])
        self.look(self)
        return super()._measure(objective, rows, when, kept)

    def values(self, objective: Any, rows: Sequence[Any], label: str) -> ItemSums:
        return super().values(objective, self.some(rows), label)

    def some(self, rows: Sequence[Any]) -> list[Any]:
        """The rows of this part."""
        few = len(rows) < 2 * TUNING_PART
        return [row for n, row in enumerate(rows) if few or (n % TUNING_PART > 0) == (self.part == 1)]

    def run(self, budget: float | None) -> Tuned:
        """Run, and measure a further step's memory."""
        done = super().run(budget)
        self.found = self.metrics(done)
        self.peak = peak_memory(self.load(), self.made, done.training.spec, next(self.stream), self.place)
        return done

    def metrics(self, done: Tuned) -> dict[str, float]:
        """What is compared. Raises SpecError where no row is held out."""
        if done.after is None:
            raise SpecError("rows.held_out: no row was held out; raise it, or give more rows")
        return {"loss": done.after.mean}


class TuningTrial(Stepping):
    """Tunes an arm under a seed."""

    metrics: tuple[Metric, ...] = (Metric("loss", "nats", "lower", "held-out loss a token"),)
    costs = COSTS
    replicate = "seed"
    tried: type[Tried] = Tried
    code: tuple[str, ...] = (Tuning.__module__, PackedStream.__module__)

    def __init__(self, question: RunnerRequest, cache: StudyCache, say: Say) -> None:
        base = question.base
        if question.hold != "tokens":
            raise SpecError(f"--hold {question.hold}: arms that tune one model read the same rows; leave --hold out")
        if not base.rows.held_out:
            raise SpecError("rows.held_out: 0 leaves nothing to measure the arms on; set it, e.g. to 0.1")
        fixed = settled_numerics(base.train, resolve_device("auto"))
        self.base = dataclasses.replace(
            base, train=dataclasses.replace(fixed, compile=base.train.compile.replace("auto", "never"))
        )
        self.arms = [_rated(arm) for arm in resolve(self.base, question.axis, question.texts)]
        self.identity = {name: hash_model(path) for name in ("model", "teacher") if (path := getattr(base, name))}
        self.identity["rows"] = file_hash(base.rows.file)
        self.definition = [self.parts(arm, 0) for arm in self.arms]
        self.about: dict[str, Any] = {
            "base": dump(self.base),
            "data": {"model": base.model, "rows": base.rows.file, "sha256": self.identity["rows"]},
        }
        say(f"every arm: {settings_words(dump(self.base))}")
        if warning := trained_before(self.base, *range(question.seeds)):
            say(warning)

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        asked = dump(arm.spec)
        train = {k: v for k, v in asked.pop("train").items() if k not in MAY_CHANGE}
        for name in ("model", "teacher", "seed"):
            asked.pop(name, None)
        asked["rows"].pop("file")
        return run_key(
            "tuning", [arm.spec], self.code, measure=MEASURE_VERSION, asked=asked, train=train, seed=seed,
            files=self.identity, tuning=self.tuning, device=str(resolve_device("auto")),
        )  # fmt: skip

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Tune, or go on with a tuning that was killed, and measure."""
        tried, done = self.tune(arm, seed, work / "tuning")
        written = sum(path.stat().st_size for path in (tried.place / MODEL).glob("*.safetensors"))
        training = done.training
        costs: dict[str, float | None] = {
            "parameters": done.trained, "tokens": training.tokens, "steps": training.steps, "seconds": training.seconds,
            "train_tokens_per_second": training.tokens / training.seconds if training.seconds else None,
            "peak_memory": tried.peak, "written_bytes": written,
        }  # fmt: skip
        pairing = {"parameters": tried.parameters, "rows": tried.row_hashes()}
        return Measurement({name: [value] for name, value in tried.found.items()}, costs, [], pairing)

    def plan(self, question: RunnerRequest, started: float, work: Path, say: Say) -> StudyPlan:
        """The steps of `rows.epochs`, or as many as the budget has time for: a short tuning of each arm is timed.

        Raises:
            SpecError, DataError: an arm that cannot run, before any is trained; a budget that is too small.
        """
        begun = {arm.label: self.checked(arm, work / f"check-{n}") for n, arm in enumerate(self.arms)}
        first, speed = begun[question.baseline], dict[str, Speed]()
        ratios = {label: first.units / tried.units for label, tried in begun.items()}
        least = min(FEWEST, *(tried.wanted for tried in begun.values()))

        def fit(speed: Mapping[str, Speed]) -> StudyPlan:
            spent, stated = time.monotonic() - started, self.base.train.steps
            return question.plan(spent, speed, ratios, min_steps=least, stated=stated)

        def look(label: str, tried: Tried) -> None:
            """Refuse as soon as the arms seen so far cannot fit; the budget that is named counts the others as this."""
            taken = step_seconds(tried.place)
            likely = Speed(_a_step(taken) or INSTANT, 0.0)
            try:
                fit(speed | {label: likely})
            except BudgetError:
                fit({arm.label: speed.get(arm.label, likely) for arm in self.arms})
                raise

        for number, arm in enumerate(self.arms):
            taken, outside = self.rehearse(arm, work / str(number), functools.partial(look, arm.label))
            slowest = max((s.step_seconds for s in speed.values()), default=1e-3)
            speed[arm.label] = Speed(_a_step(taken) or slowest, outside)
        plan = fit(speed)
        steps = {label: min(count, round(first.wanted * ratios[label])) for label, count in plan.steps.items()}
        plan = dataclasses.replace(plan, steps=steps)
        runs = plan.seeds + plan.tuning_runs
        return dataclasses.replace(plan, expected_seconds=plan.spent_seconds + runs * sum(map(plan.seconds_of, steps)))

    def checked(self, arm: Arm, place: Path) -> Tried:
        """An arm's tuning before its first step. Raises what it raises, with the arm's name."""
        tried = self.tried(arm.spec, place, "auto", lambda line: None)
        try:
            tried.check()
        except SpecError as error:
            raise SpecError(f"arm {arm.label!r}: {error}") from None
        tried.model = None
        return tried

    def rehearse(self, arm: Arm, place: Path, look: Callable[[Tried], None]) -> tuple[list[float], float]:
        """Seconds of each step of a short tuning, and its seconds outside them; no steps where the first one diverges.

        Args:
            look: called after the steps, before anything is measured; it raises what ends the rehearsal.
        """
        begin = time.perf_counter()
        with contextlib.suppress(TrainingError):  # an arm that diverges fails in its runs; its first steps have times
            self.tune(arm, 0, place, look)
        taken = step_seconds(place)
        return taken, max(0.0, time.perf_counter() - begin - sum(taken))

    def tune(
        self, arm: Arm, seed: int, place: Path, look: Callable[[Tried], None] | None = None
    ) -> tuple[Tried, Tuned]:
        """The tuning of an arm in a folder; one that is there is gone on with."""
        asked, held = dataclasses.replace(arm.spec, seed=seed, budget=None), RunFolder(place)
        with held.held(Recipe.whole(asked), resume=(place / RECIPE).is_file()):
            tried = self.tried(asked, place, "auto", lambda line: None)
            tried.part, tried.look = 0 if self.tuning else 1, look
            return tried, run_held(held, tried)


def _rated(arm: Arm) -> Arm:
    """The arm with the rate that a tuning would choose written down."""
    optimizer = own_rate(arm.spec)
    spec = with_train(arm.spec, optimizer=optimizer)
    moved = diff(arm.spec, spec)
    return dataclasses.replace(arm, spec=spec, diff=arm.diff | moved, held=arm.held | moved)


def _a_step(taken: Sequence[float]) -> float | None:
    """Seconds of a step from those of the first ones, of which the first allocates; None where there are none."""
    return statistics.median(taken[1:] or taken) if taken else None


def step_seconds(place: Path) -> list[float]:
    """Seconds of each step of the tuning in a folder."""
    return [line["seconds"] for line in read_metrics(place / "training") if "seconds" in line]
