"""What the stages of a run may take of its budget, by a clock that the tests move."""

from __future__ import annotations

from typing import Any

import pytest

from llmanac.apps.docs_assistant import app
from llmanac.core import progress
from llmanac.recipes import timetable
from llmanac.recipes.timetable import Timetable, bytes_that_fit, questions_asked
from llmanac.train import pace

BEFORE = ["collect text", "write pairs"]


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timetable, "now", made)
    return made


def after(clock: Clock, stages: dict[str, float], planned: Any = None, start: float = 0.0) -> tuple[Timetable, dict]:
    """The timetable once these stages have taken so long."""
    seconds: dict[str, float] = {}
    clock.time += start
    time = Timetable(100.0, seconds, planned or {}, clock.time - start)
    for name, taken in stages.items():
        time.begin()
        clock.time += taken
        seconds[name] = time.stage
    time.begin()
    return time, seconds


def test_what_a_stage_takes_the_later_ones_do_not_have(clock):
    time, _ = after(clock, {"collect text": 10, "write pairs": 10})
    assert time.pretraining(BEFORE, 0.25) == pytest.approx(0.75 * 0.93 * 80)
    time, _ = after(clock, {"collect text": 10, "write pairs": 10, "pretrain": 55.8})
    assert time.finetuning(BEFORE, 0.25) == pytest.approx(0.25 * 0.93 * 80)  # pretraining was on time
    time, _ = after(clock, {"collect text": 10, "write pairs": 10, "pretrain": 66})
    assert time.finetuning(BEFORE, 0.25) == pytest.approx(14 - 0.07 * 80)  # it was late
    time, _ = after(clock, {"collect text": 10, "write pairs": 10, "pretrain": 66, "fine-tune": 9})
    assert time.measuring() == pytest.approx(5)
    time, _ = after(clock, {"collect text": 20, "write pairs": 20}, start=10)
    assert time.pretraining(BEFORE, 0.0) == pytest.approx(0.93 * (50 - 0.5 * 10))  # loading libraries counts


def test_planning_is_taken_from_the_training(clock):
    time, _ = after(clock, {"collect text": 10})
    clock.time += 5
    assert time.pretraining(["collect text"], 0.0) == pytest.approx(0.93 * 90 - 5)


def test_every_stage_has_a_floor_and_a_late_run_says_so(clock):
    time, _ = after(clock, {"collect text": 70, "write pairs": 60})
    assert time.pretraining(BEFORE, 0.25) == pytest.approx(10) and time.finetuning(BEFORE, 0.25) == 4
    assert time.measuring() == 4
    assert "took 130 s of a budget of 100 s; 10 s are for training, and the run will take longer" in time.late(BEFORE)
    assert "130 s" in time.over() and "collect text 70 s, write pairs 60 s" in time.over()
    # even the floors together stay within a quarter of the budget
    assert max(timetable.FLOOR, timetable.SHORTEST_SHARE) + 2 * timetable.LEAST < 0.25
    time, _ = after(clock, {"collect text": 10})
    assert not time.late(["collect text"]) and not time.over()


def test_time_of_earlier_sessions_counts_also_of_a_training_that_was_killed(clock):
    time = Timetable(100.0, {"collect text": 10.0}, {"pretrain": {"seconds": 60.0}}, None)
    assert time.spent == 10 and time.finetuning(["collect text"], 0.5) == pytest.approx(0.5 * 0.93 * 90)
    time = Timetable(100.0, {"collect text": 10.0, "pretrain": 2.0}, {"pretrain": {"seconds": 60.0}}, None)
    clock.time += 7
    assert time.spent == 77


class Run:
    """What sizes are settled for."""

    def __init__(self, time: Timetable) -> None:
        self.time, self.planned, self.saved = time, {}, 0

    def save(self) -> None:
        self.saved += 1


@pytest.mark.parametrize(("each", "asked", "given"), [(0.01, 150, 150), (0.25, 150, 40), (9.0, 150, 14), (9.0, 5, 5)])
def test_questions_are_as_many_as_there_is_time_for_and_settled_once(clock, capsys, each, asked, given):
    time, _ = after(clock, {"collect text": 60})
    run = Run(time)

    def ask(count: int) -> None:
        clock.time += count * each

    found = questions_asked(run, ask, asked, ways=4, what="questions")
    assert given - 3 <= found <= given and (found < asked) == ("time is short" in capsys.readouterr().out)
    clock.time += 30
    assert questions_asked(run, ask, asked, ways=4, what="questions") == found and run.saved == 1  # resumed: the same


def test_held_out_text_shrinks_to_what_there_is_time_for(clock, monkeypatch, capsys):
    a_byte = 1e-4

    def score(model: Any, tokenizer: Any, texts: list[str]) -> None:
        clock.time += a_byte * len(texts[0])

    monkeypatch.setattr(timetable, "score_texts", score)
    texts = ["x" * 10_000] * 40
    assert bytes_that_fit([1, 2], None, texts, 400_000, 100.0) == 400_000
    assert bytes_that_fit([1, 2], None, texts, 400_000, 20.0) == pytest.approx(100_000)
    assert bytes_that_fit([1, 2], None, texts, 400_000, 0.01) == timetable.FEWEST_BYTES
    assert bytes_that_fit([1], None, ["x" * 90_000] * 3, 400_000, 0.01) == 90_000  # documents are scored whole
    assert bytes_that_fit([1], None, texts, 15_000, 0.01) == 15_000
    assert not capsys.readouterr().out


def test_rows_are_as_many_as_there_is_time_for_but_some(monkeypatch, capsys):
    made = Clock()
    monkeypatch.setattr(app.time, "monotonic", made)

    def rows():
        for i in range(1000):
            made.time += 0.1
            yield i

    assert len(list(app.counted("write", rows(), 1000, fewest=50, seconds=20.0))) in (200, 201)
    assert "rows, not 1,000: time is short" in capsys.readouterr().out
    assert len(list(app.counted("write", rows(), 1000, fewest=50, seconds=1.0))) == 50
    assert len(list(app.counted("write", rows(), 1000))) == 1000


def test_compiling_is_not_part_of_the_budget(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    time = Timetable(100.0, {}, {}, timetable.now())
    with progress.announced("compiling"):
        clock.time += 46
    clock.time += 10
    assert time.spent == time.stage == 10 and pace.now() == timetable.now()
    assert time.compiled() == "compiling for this machine took 46 s, once; the budget does not count it"
