"""A mock interview: questions of a role and level, graded by their rubrics, and what to study after it.

Which points of a rubric an answer has is said by the reader.

What is missed counts for the rows that a question is about; a row is studied by its page, its exercises and the
learning path that it is a part of.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llmanac.guide import paths
from llmanac.guide.exercise import exercises
from llmanac.guide.question import PATTERNS, InterviewQuestion


@dataclass(frozen=True)
class Graded:
    """A question that was answered, and the points of its rubric (from 0) that the answer had."""

    question: InterviewQuestion
    points: frozenset[int]

    @property
    def missed(self) -> list[str]:
        return [point for number, point in enumerate(self.question.rubric) if number not in self.points]

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
