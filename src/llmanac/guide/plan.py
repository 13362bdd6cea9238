"""What to do today, and until an interview: a placement test, then weak chapters first, then repetition alone.

A chapter's strength is the mean of the last rating of each of its items (1 to 4); an item that was never practiced has
none. The days but the last share what was not practiced yet; what is due again comes on top, as FSRS says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from llmanac.guide.exercise import exercises
from llmanac.guide.progress import Review
from llmanac.guide.question import InterviewQuestion, questions

PLACED = 10  # questions of the placement test: ten minutes with their 30-second answers
MOST_DAYS = 400
REPEAT = 1  # last days that bring nothing new


@dataclass(frozen=True)
class Day:
    """One day of a plan: what is new on it, in the order in which it is to be done."""

    day: date
    items: tuple[str, ...]

    @property
    def chapters(self) -> list[str]:
        """Of its items, each once."""
        return list(dict.fromkeys(chapter_of(item) for item in self.items))


def chapter_of(item: str) -> str:
    """The chapter of `question/NAME` or `exercise/NAME`; empty for one that is no longer there."""
    kind, _, name = item.partition("/")
    found = questions().get(name) if kind == "question" else exercises().get(name)
    return "" if found is None else found.chapter


def strengths(reviews: Sequence[Review]) -> dict[str, float]:
    """The mean last rating of each chapter that was practiced."""
    last = {review.item: review.rating for review in reviews}
    by: dict[str, list[int]] = {}
    for item, rating in last.items():
        if chapter := chapter_of(item):
            by.setdefault(chapter, []).append(rating)
    return {chapter: sum(ratings) / len(ratings) for chapter, ratings in by.items()}


def weakest(reviews: Sequence[Review]) -> str:
    """The chapter with the lowest strength; empty where nothing was practiced."""
    found = strengths(reviews)
    return min(found, key=lambda chapter: (found[chapter], chapter)) if found else ""


def _ordered(reviews: Sequence[Review]) -> list[str]:
    """What was never practiced: weak chapters first, then those that were not looked at; questions first."""
    seen, known = {review.item for review in reviews}, strengths(reviews)
    every = [f"question/{name}" for name in questions()] + [f"exercise/{name}" for name in exercises()]
    new = [item for item in every if item not in seen]
    return sorted(new, key=lambda item: (known.get(chapter_of(item), 2.5), chapter_of(item)))


def next_exercise(reviews: Sequence[Review]) -> str:
    """An exercise that was never tried, of the weakest chapter where it has one; empty where all were."""
    return next((item.partition("/")[2] for item in _ordered(reviews) if item.startswith("exercise/")), "")


def placement() -> list[InterviewQuestion]:
    """Questions of the test: one of each chapter in turn, the same each time."""
    by: dict[str, list[InterviewQuestion]] = {}
    for question in questions().values():
        by.setdefault(question.chapter, []).append(question)
    rounds = [group[turn] for turn in range(PLACED) for group in by.values() if turn < len(group)]
    return rounds[:PLACED]


def plan(reviews: Sequence[Review], interview: date, today: date) -> list[Day]:
    """A day after the other from today to the day before the interview; none where that is past."""
    count = min(MOST_DAYS, (interview - today).days)
    if count < 1:
        return []
    items, teaching = _ordered(reviews), max(1, count - REPEAT)
    cuts = [round(n * len(items) / teaching) for n in range(teaching + 1)] + [len(items)] * (count - teaching)
    return [Day(today + timedelta(days=n), tuple(items[cuts[n] : cuts[n + 1]])) for n in range(count)]
