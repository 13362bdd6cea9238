"""A training that has a time to end in: its number of steps follows the machine, by a clock that the tests move."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from _training import losses, run, same

from llmanac.data.tokens import TokenDataset
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import loop, pace
from llmanac.train.checkpoint import Checkpoints
from llmanac.train.metrics import read_metrics
from llmanac.train.plan import TrainingPlan

pytestmark = pytest.mark.usefixtures("one_thread")
BUDGET, A_STEP = 100.0, 0.5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [(rng.integers(0, 61, 40).tolist(), None) for _ in range(50)]
    place = tmp_path_factory.mktemp("data") / "data"
    TokenDataset.write_examples(place, rows, vocab_size=61)
    return TokenDataset(place)


class Clock:
    """Seconds that pass only when a test lets them pass."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pace, "now", made)
    return made


class Machine(Autoregressive):
    """Steps take as long as `seconds(step)` says; at `dies` the process is gone."""

    def __init__(self, clock, seconds, dies=None):
        super().__init__()
        self.clock, self.seconds, self.dies, self.step = clock, seconds, dies, 0

    def loss(self, model, batch):
        if self.step == self.dies:
            raise Killed
        self.clock.time += self.seconds(self.step)
        self.step += 1
        return super().loss(model, batch)


class Killed(Exception):
    pass


def train(dataset, folder: Path, clock: Clock, seconds, dies=None, **options):
    said: list[str] = []
    begin = clock.time
    options = {"steps": 194, "budget": BUDGET, "micro_batch": 4, "checkpoint_every": None, **options}
    result, model = run(dataset, folder, objective=Machine(clock, seconds, dies), report=said.append, **options)
    return result, model, said, (clock.time - begin) / options["budget"]


def weights(model) -> dict[str, float]:
    """What an evaluation may give: a number that every step changes."""
    return {"loss": float(sum(p.double().abs().sum() for p in model.parameters()))}


def evaluations(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["evaluate_loss"]) for line in read_metrics(folder) if "evaluate_loss" in line]


@pytest.fixture
def saved(monkeypatch):
    """The steps of all checkpoints that were saved, by folder: also of those that made room for later ones."""
    steps: dict[Path, set[int]] = {}
    save = Checkpoints.save

    def note(self, step, *given):
        steps.setdefault(self.folder.parent, set()).add(step)
        return save(self, step, *given)

    monkeypatch.setattr(Checkpoints, "save", note)
    return steps


def rates(folder: Path) -> list[float]:
    return [line["lr_scale"] for line in read_metrics(folder) if "lr_scale" in line]


@pytest.mark.parametrize("slow", [1.5, 3, 8, 40])
@pytest.mark.parametrize("at", [0, 20, 100, 150, 185])
def test_a_machine_that_gets_slow_ends_in_time_with_its_decay(dataset, tmp_path, clock, slow, at):
    result, _, said, took = train(dataset, tmp_path, clock, lambda step: A_STEP * (slow if step >= at else 1))
    assert 0.7 < took < 1.2 + A_STEP * slow / BUDGET
    schedule = result.spec.schedule.build(steps=result.plan.first_steps)
    assert result.steps < 194 or at == 185
    assert rates(tmp_path)[-1] == schedule(193) < 0.02  # where the decay ends
    assert len(said) == len(result.plan.revisions) and all("steps instead of" in line for line in said)
    jumps = np.abs(np.diff(rates(tmp_path)[10:]))
    assert result.steps - at < 20 or jumps.max() < 0.35  # the rate falls, it is not cut


@pytest.mark.parametrize("at", [0, 100])
def test_a_machine_that_gets_fast_does_more(dataset, tmp_path, clock, at):
    result, _, said, took = train(dataset, tmp_path, clock, lambda step: A_STEP / (3 if step >= at else 1))
    assert 0.8 < took < 1.05 and result.steps > 1.5 * result.plan.first_steps
    assert rates(tmp_path)[-1] < 0.02 and "steps instead of" in said[0]


def test_a_speed_that_varies_a_little_changes_nothing(dataset, tmp_path, clock):
    rng = np.random.default_rng(1)
    result, _, said, _ = train(dataset, tmp_path, clock, lambda step: A_STEP * rng.uniform(0.8, 1.2))
    assert not said and not result.plan.revisions and result.steps == 194


def test_slow_evaluations_count(dataset, tmp_path, clock):
    def evaluate(model):
        clock.time += 8.0
        return {"loss": 1.0}

    result, _, _, took = train(dataset, tmp_path, clock, lambda step: A_STEP, evaluate=evaluate)
    assert took < 1.2 and result.steps < 120


def test_a_revision_is_written_before_it_counts(dataset, tmp_path, clock, monkeypatch):
    """When plan.json changes, no step that the change decides has been done."""
    written: list[tuple[int, int]] = []
    save = TrainingPlan.save

    def note(self, folder):
        save(self, folder)
        kept = json.loads((folder / "plan.json").read_text())["revisions"]
        if len(kept) > len(written):
            written.append((kept[-1]["step"], len(rates(folder))))

    monkeypatch.setattr(loop.TrainingPlan, "save", note)
    result, *_ = train(dataset, tmp_path, clock, lambda step: A_STEP * (6 if step >= 50 else 1))
    assert written and [step for step, _ in written] == [r.step for r in result.plan.revisions]
    assert all(done == step for step, done in written)


@pytest.mark.parametrize("after", ["slow", "fast"])
@pytest.mark.parametrize("dies", [1, 55, 61, 70])
def test_killed_after_a_revision_it_does_what_was_written(dataset, tmp_path, clock, saved, dies, after):
    """Whatever the speed is later on, it equals a run that has the same revisions and was never stopped."""
    with pytest.raises(Killed):
        train(dataset, tmp_path / "cut", clock, lambda step: A_STEP * (5 if step >= 50 else 1), dies, evaluate=weights)
    before = TrainingPlan.read(tmp_path / "cut")
    speed = {"slow": lambda step: A_STEP * 4, "fast": lambda step: A_STEP}[after]
    cut, model, *_ = train(dataset, tmp_path / "cut", clock, speed, evaluate=weights)
    assert cut.plan.revisions[: len(before.revisions)] == before.revisions
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "plan.json").write_bytes((tmp_path / "cut" / "plan.json").read_bytes())
    whole, other, said, _ = train(dataset, tmp_path / "whole", clock, lambda step: A_STEP * 9, evaluate=weights)
    assert same(model, other) and losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert rates(tmp_path / "cut") == rates(tmp_path / "whole")
    assert evaluations(tmp_path / "cut") == evaluations(tmp_path / "whole") and cut.best == whole.best
    assert saved[tmp_path / "cut"] == saved[tmp_path / "whole"]
    assert whole.plan == cut.plan and not said  # what has ended is done again as it was


def test_time_of_earlier_sessions_is_spent(dataset, tmp_path, clock):
    with pytest.raises(Killed):
        train(dataset, tmp_path, clock, lambda step: A_STEP, 120, checkpoint_every=10)
    clock.time += 10_000  # time between two sessions is nobody's
    result, _, _, took = train(dataset, tmp_path, clock, lambda step: 3 * A_STEP, checkpoint_every=10)
    assert 0.3 < took < 0.6 and result.steps < 170


def test_stated_steps_are_kept_where_there_is_no_budget(dataset, tmp_path, clock):
    result, _ = run(dataset, tmp_path, steps=12, objective=Machine(clock, lambda step: 50.0))
    assert result.steps == 12 and not result.plan.revisions


def test_a_plan_of_before_revisions_is_read(dataset, tmp_path, clock):
    made, _ = run(dataset, tmp_path, steps=3)
    data = json.loads((tmp_path / "plan.json").read_text())
    del data["revisions"], data["ended"]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    again, _ = run(dataset, tmp_path, steps=3)
    assert again.plan == made.plan
