"""A trial that tunes a model that is there (`recipes/tune.py`): the arm's adapter, or its own weights, on given rows.

The seed names the rows held out, the order of the others and an adapter's initial values; these are the same for every
arm. The replicate is the seed, and what is measured is the loss of the held-out rows after the tuning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.run_folder import RECIPE, Recipe, RunFolder
from llmanac.core.spec import dump
from llmanac.data.pack import PackedStream
from llmanac.lab.axis import Arm
from llmanac.lab.cache import versions
from llmanac.lab.costs import peak_memory
from llmanac.lab.pairing import RecordingStream, hash_parameters
from llmanac.lab.sources import fingerprint
from llmanac.lab.study import Measurement
from llmanac.lab.trials.decoding import hash_files
from llmanac.metrics._items import Items, Metric
from llmanac.models.locate import model_folder
from llmanac.recipes.tune import MODEL, Tuned, TuneSpec, Tuning, run_held
from llmanac.train.loop import MAY_CHANGE
from llmanac.train.metrics import read_metrics
from llmanac.train.plan import Plan

MEASURE_VERSION = 1  # raise it when what is measured below changes its meaning
TUNING_PART = 4  # one held-out row in so many is for the sweep of `--tune`, the others for the result
CODE = (Tuning.__module__, PackedStream.__module__)


class Watched:
    """A source that calls a function before it draws rows; everything else is delegated."""

    def __init__(self, source: Any, before: Callable[[], None]) -> None:
        self._source, self._before = source, before

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> Any:
        self._before()
        return next(self._source)

    def take(self, count: int) -> Any:
        """The next `count` rows of the source."""
        self._before()
        return self._source.take(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class Tried(Tuning):
    """A tuning that notes what it started from and what it cost.

    Attributes:
        part: of the held-out rows: 0 for the sweep, 1 for the result.
        parameters: hashes of the initial tensors; stream: what hashed the rows; peak: bytes of a step.
        look: makes this a rehearsal: nothing is measured before the training, and this is called after each step.
        measuring: seconds of that in a rehearsal.
    """

    part = 1
    stream: Any = None
    peak: float | None = None
    look: Callable[[Tried], None] | None = None
    measuring = 0.0

    def attach(self) -> None:
        super().attach()
        self.parameters = hash_parameters(self.load())

    def objective(self) -> Any:
        self.made = super().objective()
        return self.made

    def source(self, rows: Any, objective: Any, budget: float | None) -> Any:
        found, settled = super().source(rows, objective, budget)
        if isinstance(found, PackedStream):
            found = RecordingStream(
                found,
                lambda: PackedStream(
                    rows.train, length=settled.length, rows=settled.rows, seed=self.asked.seed, packing="whole"
                ),
            )
            if self.look is not None:
                found = Watched(found, self.steps_done)
        self.stream = found
        return found, settled

    def steps_done(self) -> None:
        """Call `look`, once there is a step."""
        if self.look is not None and step_seconds(self.place):
            self.look(self)

    def _measure(self, objective: Any, rows: Any, when: str, kept: str = "before.json") -> Any:
        if self.look is None:
            return super()._measure(objective, rows, when, kept)
        if when == "before":
            return Items([0.0], [1.0])
        if not self.measuring:
            self.steps_done()
        begin = time.perf_counter()
        found = super()._measure(objective, rows, when, kept)
        self.measuring += time.perf_counter() - begin
        return found

    def values(self, objective: Any, rows: Sequence[Any], label: str) -> Items:
        few = len(rows) < 2 * TUNING_PART
        chosen = [row for n, row in enumerate(rows) if few or (n % TUNING_PART > 0) == (self.part == 1)]
        return super().values(objective, chosen, label)

    def run(self, budget: float | None) -> Tuned:
        """Run, and measure a further step's memory."""
        done = super().run(budget)
        self.peak = peak_memory(self.load(), self.made, done.training.spec, next(self.stream), self.place)
        return done


class TuningTrial:
    """Tunes an arm under a seed.

    Args:
        base: whose model and rows are used; tuning: measure on the held-out rows of the sweep.
    """

    metrics: tuple[Metric, ...] = (Metric("loss", "nats", "lower", "held-out loss a token"),)
    costs: tuple[Metric, ...] = (
        Metric("parameters", "", "lower", "trained parameters"), Metric("tokens", "", "lower", "training tokens"),
        Metric("steps", "", "lower"), Metric("seconds", "s", "lower", "training time"),
        Metric("train_tokens_per_second", "token/s", "higher", "training speed"),
        Metric("peak_memory", "B", "lower", "peak memory of a step"),
        Metric("written_bytes", "B", "lower", "size of what is written"),
    )  # fmt: skip
    replicate = "seed"

    def __init__(self, base: TuneSpec, *, tuning: bool = False) -> None:
        self.tuning = tuning
        self.identity = {name: hash_model(path) for name in ("model", "teacher") if (path := getattr(base, name))}
        with open(base.rows.file, "rb") as file:
            self.identity["rows"] = hashlib.file_digest(file, "sha256").hexdigest()

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        asked = dump(arm.spec)
        train = {k: v for k, v in asked.pop("train").items() if k not in MAY_CHANGE}
        for name in ("model", "teacher", "seed"):
            asked.pop(name, None)
        asked["rows"].pop("file")
        return {
            "trial": "tuning", "measure": MEASURE_VERSION, "asked": asked, "train": train, "seed": seed,
            "files": self.identity, "tuning": self.tuning, "sources": fingerprint([arm.spec], CODE),
            "versions": versions(), "device": str(resolve_device("auto")), "threads": torch.get_num_threads(),
        }  # fmt: skip

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Tune, or go on with a tuning that was killed, and measure."""
        tried, done = self.tune(arm, seed, work / "tuning")
        assert done.after is not None
        written = sum(path.stat().st_size for path in (tried.place / MODEL).glob("*.safetensors"))
        training = done.training
        costs: dict[str, float | None] = {
            "parameters": done.trained, "tokens": training.tokens, "steps": training.steps, "seconds": training.seconds,
            "train_tokens_per_second": training.tokens / training.seconds if training.seconds else None,
            "peak_memory": tried.peak, "written_bytes": written,
        }  # fmt: skip
        pairing = {"parameters": tried.parameters, "rows": getattr(tried.stream, "hashes", [])}
        return Measurement({"loss": [done.after.mean]}, costs, [], pairing)

    def rehearse(self, arm: Arm, place: Path, look: Callable[[Tried], None]) -> tuple[list[float], float]:
        """Seconds of each step of a short tuning, and its seconds outside them; no steps where the first one diverges.

        Args:
            look: called after the steps, before anything is measured; it raises what ends the rehearsal.

        Raises:
            SpecError: no row is held out.
        """
        begin, made, done = time.perf_counter(), list[Tried](), None

        def watched(tried: Tried) -> None:
            made.append(tried)
            look(tried)

        with contextlib.suppress(TrainingError):  # an arm that diverges fails in its runs; its first steps have times
            _, done = self.tune(arm, 0, place, watched)
        if done is not None and done.after is None:
            raise SpecError("rows.held_out: no row was held out; raise it, or give more rows")
        taken = step_seconds(place)
        again = sum(tried.measuring for tried in made)  # a run measures before its steps too
        return taken, max(0.0, time.perf_counter() - begin - sum(taken)) + again

    def tune(
        self, arm: Arm, seed: int, place: Path, look: Callable[[Tried], None] | None = None
    ) -> tuple[Tried, Tuned]:
        """The tuning of an arm in a folder; one that is there is gone on with."""
        asked, held = dataclasses.replace(arm.spec, seed=seed, budget=None), RunFolder(place)
        with held.held(Recipe.whole(asked), resume=(place / RECIPE).is_file()):
            tried = Tried(asked, place, "auto", lambda line: None)
            tried.part, tried.look = 0 if self.tuning else 1, look
            return tried, run_held(held, tried)


def step_seconds(place: Path) -> list[float]:
    """Seconds of each step of the tuning in a folder."""
    return [line["seconds"] for line in read_metrics(place / "training") if "seconds" in line]


def step_tokens(place: Path) -> int:
    """Tokens of a step of the tuning in a folder."""
    plan = Plan.read(place / "training")
    assert plan is not None  # it is written before the first step
    return plan.spec.rows * plan.spec.length


def hash_model(path: str) -> str:
    """sha256 of a model's files."""
    place = model_folder(path)
    if place.is_dir():
        return hash_files(place)
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
