"""A mock interview: questions of a role and level, graded by their rubrics, and what to study after it.

Which points of a rubric an answer has is said by the reader, or by a chat model (`evaluate/grading.py`) that graded the
answers of `gold()` well enough.

What is missed counts for the rows that a question is about; a row is studied by its page, its exercises and the
learning path that it is a part of.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmanac.core import files
from llmanac.evaluate.answering import Answerer, load_answerer
from llmanac.evaluate.grading import LEAST, GoldAnswer, Reliability, grade, reliability
from llmanac.guide import paths
from llmanac.guide.exercise import exercises
from llmanac.guide.progress import ReviewLog
from llmanac.guide.question import PATTERNS, InterviewQuestion, find

KEPT = "grader"  # the setting with what was measured of a chat model
GOLD = Path(__file__).with_name("gold.toml")
BUILT = 4  # answers of a question of the gold set


@dataclass(frozen=True)
class Graded:
    """A question that was answered, and the points of its rubric (from 0) that the answer had."""

    question: InterviewQuestion
    points: frozenset[int]

    @property
    def missed(self) -> list[str]:
        return [point for number, point in enumerate(self.question.rubric) if number not in self.points]

    @property
    def follow_up(self) -> str:
        """What an interviewer would ask next: for the first point that was missed, else further on."""
        return f"And what about this: {self.missed[0]}?" if self.missed else self.question.follow_ups[0]

    @property
    def rating(self) -> str:
        """As a review has it: all points are good, most are hard, else again."""
        part = len(self.points) / len(self.question.rubric)
        return "good" if part == 1 else "hard" if part > 0.5 else "again"


@dataclass(frozen=True)
class StudyAdvice:
    """A row to study: the points that were missed on it, exercises that practice it, the learning path it is in."""

    row: str
    missed: tuple[str, ...]
    exercises: tuple[str, ...]
    path: str


def choose(
    known: Sequence[InterviewQuestion],
    *,
    count: int,
    seed: int = 0,
    role: str | None = None,
    level: str | None = None,
    chapter: str | None = None,
    due: Collection[str] = (),
    later: Collection[str] = (),
) -> list[InterviewQuestion]:
    """Questions for an interview: due ones first, then one of each pattern in turn, the same for one seed.

    Args:
        role, level, chapter: only these; `due`, `later`: names to ask first, and names that are not due yet.
    """
    fits = [q for q in known if role in (None, *q.roles) and level in (None, q.level) and chapter in (None, q.chapter)]
    random.Random(seed).shuffle(fits)
    chosen = [q for q in fits if q.name in due][:count]
    skipped = {*due, *later}
    new = {pattern: [q for q in fits if q.pattern == pattern and q.name not in skipped] for pattern in PATTERNS}
    while len(chosen) < count and any(new.values()):
        chosen += [new[pattern].pop() for pattern in PATTERNS if new[pattern]][: count - len(chosen)]
    return chosen


def study(graded: Sequence[Graded]) -> list[StudyAdvice]:
    """The rows of what was missed, most missed first."""
    missed: dict[str, list[str]] = {}
    for one in graded:
        for row in one.question.rows:
            missed.setdefault(row, []).extend(one.missed)
    found = []
    for row, points in sorted(missed.items(), key=lambda item: -len(item[1])):
        if points:
            practice = tuple(name for name, exercise in exercises().items() if row in exercise.rows)
            path = next((p.title for p in paths.load() if any(step.row == row for step in p.steps)), "")
            found.append(StudyAdvice(row, tuple(points), practice, path))
    return found


def gold() -> list[GoldAnswer]:
    """Answers that are built with known points: of each question one with all, and others with some, in any order."""
    found = []
    for name, told in files.read_toml(GOLD).items():
        question, rng = find(name), random.Random(name)
        ways = list(itertools.product((True, False), repeat=len(question.rubric)))
        for held in (ways[0], *rng.sample(ways[1:], BUILT - 1)):
            said = [told["filler"], *(text for text, there in zip(told["points"], held, strict=True) if there)]
            rng.shuffle(said)
            found.append(GoldAnswer(question.ask, " ".join(said), tuple(question.rubric), held))
    return found


class Grader:
    """A chat model that grades written answers, where it was measured and agrees well enough.

    Args:
        path: a model's folder, a file or a server's address; kept: where its measurement is.
    """

    def __init__(self, path: str, kept: ReviewLog) -> None:
        self.path, self.kept = path, kept

    @functools.cached_property
    def model(self) -> Answerer:
        """Raises LlmanacError where it cannot be loaded or does not answer."""
        return load_answerer(self.path)

    def measure(self) -> Reliability:
        """Grade the gold answers, and keep how well that went."""
        found = reliability(self.model, gold())
        self.kept.keep(KEPT, json.dumps({"path": self.path, **found.as_json()}))
        return found

    def measured(self) -> Reliability | None:
        """What was measured of this model; None for nothing."""
        known = json.loads(self.kept.setting(KEPT) or "{}")
        return None if known.pop("path", None) != self.path else Reliability(**known)

    def note(self) -> str:
        """What a page says of it; it grades only where `usable`."""
        known = self.measured()
        if known is None:
            return f"{self.path} was not measured: llmanac question grader {self.path}"
        if known.kappa is None or known.low is None or known.high is None:
            return f"{known.model} gave all points one grade, so grades by it are not shown."
        said = (
            f"{known.model} agrees with known points with kappa {known.kappa:.2f} ({known.low:.2f} to {known.high:.2f})"
        )
        ending = "." if known.usable else f", below {LEAST}, so grades by it are not shown."
        return f"{said} on {known.answers} built answers{ending}"

    @property
    def usable(self) -> bool:
        known = self.measured()
        return known is not None and known.usable

    def grade(self, question: InterviewQuestion, answer: str) -> Graded:
        """The points that the model finds in an answer. Raises LlmanacError as `model`."""
        held = grade(self.model, question.ask, answer, question.rubric)
        return Graded(question, frozenset(n for n, there in enumerate(held) if there))
