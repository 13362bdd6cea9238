"""The budget of a study: warned of while it runs, held by ending after a whole seed, and a base that would fit it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from llmanac.core import spec
from llmanac.core.errors import SpecError
from llmanac.lab import budget as deadlines
from llmanac.lab import words
from llmanac.lab.axis import Arm, Axis
from llmanac.lab.budget import BudgetError, Deadline, Speed, StudyPlan, make_plan
from llmanac.lab.cache import StudyCache
from llmanac.lab.hold import parameters_of
from llmanac.lab.smaller import smaller_base
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement, Study
from llmanac.recipes.spec import load_recipe

BASE = Path(deadlines.__file__).with_name("base.toml")


class Clock:
    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(deadlines, "now", made)
    return made


class SlowTrial:
    """Every run takes `seconds`; by seed where it is a list."""

    metrics = (Metric("bits_per_byte", "bit/B", "lower"),)
    costs = (Metric("seconds", "s", "lower"),)
    replicate = "seed"

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds = clock, seconds
        self.asked: list[tuple[str, int]] = []

    def parts(self, arm: Any, seed: int) -> dict[str, Any]:
        return {"arm": arm.label, "seed": seed}

    def measure(self, arm: Any, seed: int, work: Path) -> Measurement:
        self.asked.append((arm.label, seed))
        self.clock.time += self.seconds[seed]
        value = 2.0 + 0.01 * seed + (0.2 if arm.label == "b" else 0.0)
        return Measurement({"bits_per_byte": [value]}, {"seconds": 1.0})


def study(trial: SlowTrial, cache: Path, budget: float, expected: float) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    arms = tuple(Arm(label, None, {}, {}) for label in "ab")
    made = Study(
        "s", Axis("position", "position", "model.position"), arms, "a", tuple(range(len(trial.seconds))), trial
    )
    limit = Deadline(budget, trial.clock.time, said.append, dict.fromkeys("ab", expected))
    return made.run(StudyCache(cache), None, limit), said


def test_a_study_in_time_has_every_seed_and_no_warning(tmp_path: Path, clock: Clock) -> None:
    found, said = study(SlowTrial(clock, [10.0] * 5), tmp_path, 105, 10.0)
    assert found["seeds"] == [0, 1, 2, 3, 4] and not found["stopped"] and not said and found["asked_seeds"] == 5


@pytest.mark.parametrize(
    ("seconds", "done"), [([30.0] * 5, 2), ([10, 10, 10, 40, 40], 4), ([200.0] * 5, 1), ([11.5] * 5, 5)]
)
def test_past_its_budget_it_ends_after_a_whole_seed(tmp_path: Path, clock: Clock, seconds, done: int) -> None:
    begin, trial = clock.time, SlowTrial(clock, seconds)
    found, said = study(trial, tmp_path, 105, 10.0)
    assert found["seeds"] == list(range(done)) and trial.asked == [(a, s) for s in range(done) for a in "ab"]
    assert {len(v) for v in found["values"]["bits_per_byte"].values()} == {done}
    assert clock.time - begin <= 1.25 * 105 or done == 1 or seconds[0] != seconds[-1]
    if done < 5:
        assert f"{done} of 5 seeds were done" in found["stopped"]
        assert any(found["stopped"] in line for line in words.warnings({**found, "hold": None, "tune": None}))
    assert bool(said) == (sum(seconds) * 2 > 1.1 * 105)


def test_it_is_warned_of_while_there_is_time(tmp_path: Path, clock: Clock) -> None:
    trial, at = SlowTrial(clock, [30.0] * 5), []
    begin, limit = clock.time, None
    arms = tuple(Arm(label, None, {}, {}) for label in "ab")
    limit = Deadline(105, begin, lambda line: at.append((clock.time - begin, line)), dict.fromkeys("ab", 10.0))
    made = Study("s", Axis("position", "position", "model.position"), arms, "a", tuple(range(5)), trial)
    made.run(StudyCache(tmp_path), None, limit)
    assert at[0][0] == 30.0 and "5m" in at[0][1] and "1m 45s" in at[0][1]  # after the first run
    assert len(at) == 1  # nothing new: not said again


def test_the_same_command_goes_on(tmp_path: Path, clock: Clock) -> None:
    first, _ = study(SlowTrial(clock, [60.0] * 3), tmp_path, 60, 9.0)
    assert first["seeds"] == [0]
    trial = SlowTrial(clock, [60.0] * 3)
    second, _ = study(trial, tmp_path, 60, 9.0)
    assert second["seeds"] == [0, 1] and trial.asked == [("a", 1), ("b", 1)]
    third, _ = study(SlowTrial(clock, [60.0] * 3), tmp_path, 60, 9.0)
    assert third["seeds"] == [0, 1, 2] and not third["stopped"]


# a base that fits


def asked(budget: float, step: float, base: Any, axis: str = "model.position", **options: Any) -> str:
    def fit(speed: Any) -> StudyPlan:
        return make_plan(budget, 5.0, 5, speed, {"a": 1.0, "b": 1.0}, **options)

    speed = {"a": Speed(step, 2.0), "b": Speed(step, 2.0)}
    with pytest.raises(BudgetError):
        fit(speed)
    return smaller_base(base, axis, 1024, speed, fit)


@pytest.mark.parametrize("recipe", [BASE, "quickstart"])
def test_the_base_that_is_offered_is_smaller_and_can_be_asked_for(recipe: Any) -> None:
    base = load_recipe(recipe).spec
    sizes = [parameters_of(base.model, 1024)]
    for step in (0.2, 0.3):
        flags = shlex.split(asked(300, step, base))
        assert flags and flags[::2] == ["-s"] * (len(flags) // 2)
        sizes.append(parameters_of(load_recipe(recipe, spec.parse_patches(flags[1::2])).spec.model, 1024))
    assert sizes[0] > sizes[1] >= sizes[2]


def test_no_base_is_offered_where_none_fits_or_the_arms_vary_it() -> None:
    base = load_recipe(BASE).spec
    assert asked(20, 0.2, base) == ""
    assert asked(300, 0.2, base, axis="model.dim") == ""
    assert asked(300, 0.2, load_recipe(BASE, {"model": "feedforward"}).spec) == ""
    assert issubclass(BudgetError, SpecError)
