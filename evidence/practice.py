"""Practice: what the guide has to practice with, and what repetition by its schedule keeps.

The bank has {questions} questions in {chapters} chapters and all five patterns. {checked} ({share:.0%}) have a part
with one right answer, which the machine checks: it takes the right answer of {accepted} and an answer that is 10%
off, one line, one dimension or one form away of {fooled}. Of {rows} rows of the almanac {complete} have an
explanation, source, test, evidence and a question.

Hidden tests of {exercises} exercises find {found} of {mutants} solutions with one operator, comparison, number or
function changed. Some of those that survive make no difference to any input.

A simulated reader has {items} items and {days} days, and reviews {per_day} a day at most. What the reader knows on
the day of the interview: {known}. Paired by reader, the guide's schedule keeps {gain} more than going through the
items in turn, and {crammed} more than taking one chapter after another.

## Limits

The readers are simulated: what is remembered falls exponentially, a success divides the rate of forgetting, a failure
raises it (the model of Tabibian et al. 2019, with rates drawn at random). This is not FSRS's own model, on purpose.
The readers show how the schedules differ under that model. They do not show that a person learns more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from evidence._mutants import outcomes
from llmanac.core import catalogue
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.guide.check import FORMS
from llmanac.guide.exercise import exercises
from llmanac.guide.pages import pages
from llmanac.guide.progress import RATINGS, Review, due
from llmanac.guide.question import PATTERNS, InterviewQuestion, questions
from llmanac.lab.stats import interval, mean

ROWS = ("study/questions", "study/exercises", "study/concepts")
CLAIM = "practise as in an interview: checked answers, exercises with hidden tests, repetition when it is due"
SEEDS = 3
VERSION = 2  # the bank and the exercises have grown
REPLICATE = "seed"
PACKAGES = ("fsrs",)
ITEMS, CHAPTERS, DAYS, PER_DAY, READERS = 80, 8, 30, 24, 20
START = datetime(2026, 1, 1, 9, tzinfo=UTC)
PARTS = ("explanation", "source", "test", "evidence", "question")
FEW = ("softmax", "pass-at-k", "bm25")

Schedule = Callable[["Reader", int, int], int]


class Reader:
    """Items with a rate of forgetting each: recall is exp(-rate x days since the last review).

    A success multiplies the rate by 1 - alpha, a failure by 1 + beta; an item that was never seen is not known.
    """

    def __init__(self, items: int, rng: np.random.Generator) -> None:
        self.rng, self.alpha, self.beta = rng, rng.uniform(0.25, 0.6), rng.uniform(0.0, 0.4)
        self.rates = rng.lognormal(math.log(0.4), 0.6, items)
        self.reviews: list[list[Review]] = [[] for _ in range(items)]
        self.due: list[datetime] = [START] * items

    def recall(self, item: int, at: datetime) -> float:
        """The probability that an item is known at a time."""
        if not self.reviews[item]:
            return 0.0
        days = (at - self.reviews[item][-1].at).total_seconds() / 86400
        return math.exp(-self.rates[item] * days)

    def review(self, item: int, at: datetime) -> None:
        """Ask for it, and note how it went."""
        known = self.rng.random() < self.recall(item, at)
        if self.reviews[item]:
            self.rates[item] *= 1 - self.alpha if known else 1 + self.beta
        self.reviews[item].append(Review(str(item), at, RATINGS["good" if known else "again"]))
        self.due[item] = due(self.reviews[item])


def by_due(reader: Reader, day: int, turn: int) -> int:
    """The item that is due for the longest time; where none is, a new one; else none (-1)."""
    now = START + timedelta(days=day, minutes=turn)
    seen = [i for i, kept in enumerate(reader.reviews) if kept and reader.due[i] <= now]
    if seen:
        return min(seen, key=lambda i: reader.due[i])
    return next((i for i, kept in enumerate(reader.reviews) if not kept), -1)


def in_turn(reader: Reader, day: int, turn: int) -> int:
    """All items, again and again, in one order."""
    return sum(map(len, reader.reviews)) % len(reader.reviews)


def by_chapter(reader: Reader, day: int, turn: int) -> int:
    """One chapter after another; the last days of each go to it alone."""
    size = len(reader.reviews) // CHAPTERS
    return min(CHAPTERS - 1, day * CHAPTERS // DAYS) * size + turn % size


def at_random(reader: Reader, day: int, turn: int) -> int:
    """Any item."""
    return int(reader.rng.integers(len(reader.reviews)))


SCHEDULES: dict[str, Schedule] = {
    "when due (the guide)": by_due, "in turn": in_turn, "chapter by chapter": by_chapter, "at random": at_random,
}  # fmt: skip


def practiced(schedule: Schedule, items: int, rng: np.random.Generator) -> tuple[float, int]:
    """(share that is known on the day of the interview, reviews that it took)."""
    reader = Reader(items, rng)
    for day in range(DAYS):
        for turn in range(PER_DAY):
            if (item := schedule(reader, day, turn)) >= 0:
                reader.review(item, START + timedelta(days=day, minutes=turn))
    end = START + timedelta(days=DAYS)
    return mean([reader.recall(i, end) for i in range(items)]), sum(map(len, reader.reviews))


def graded(question: InterviewQuestion) -> tuple[bool, bool]:
    """Whether the checked part takes the right answer, and whether it takes a wrong one that is close."""
    check, figures = question.check, question.figures()
    assert check is not None
    right = check.right(figures)
    if isinstance(right, str):
        near = FORMS[(FORMS.index(right) + 1) % len(FORMS)]
    elif isinstance(right, list):
        near = ", ".join(map(str, [*right[:-1], right[-1] + 1]))
    else:
        near = str(right + 1) if check.kind == "bug" else repr(right * (1 + max(0.1, 2 * check.within)) or 0.1)
    given = ", ".join(map(str, right)) if isinstance(right, list) else str(right)
    return check.grade(given, figures)[0], check.grade(near, figures)[0]


def measure(seed: int, size: str) -> dict[str, Any]:
    small = size == "small"
    found: dict[str, Any] = {"known": {}, "reviews": {}}
    for name, schedule in SCHEDULES.items():
        runs = [
            practiced(schedule, 8 if small else ITEMS, numpy_generator(seed, f"reader {n}"))
            for n in range(1 if small else READERS)
        ]
        found["known"][name], found["reviews"][name] = [r[0] for r in runs], [r[1] for r in runs]
    tried = outcomes(FEW if small else list(exercises()))
    found["mutants"] = {name: [count, count - len(left)] for name, (count, left) in tried.items()}
    if small:
        return found
    bank = questions().values()
    checks = [graded(q) for q in bank if q.check]
    rows = [pages()[id] for id in catalogue.rows()]
    return found | {
        "patterns": {c: Counter(q.pattern for q in bank if q.chapter == c) for c in {q.chapter: 0 for q in bank}},
        "kinds": Counter(q.check.kind if q.check else "none" for q in bank),
        "checks": [len(checks), sum(right for right, _ in checks), sum(near for _, near in checks)],
        "parts": {part: sum(part not in page.lacks for page in rows) for part in PARTS},
        "complete": [sum(not {*PARTS} & {*page.lacks} for page in rows), len(rows)],
    }


def over(seeds: Sequence[dict[str, Any]], what: str, schedule: str) -> float:
    """The mean over all readers."""
    return mean([value for seed in seeds for value in seed[what][schedule]])


def paired(seeds: Sequence[dict[str, Any]], other: str) -> str:
    """The gain in what is known over another schedule with its interval over readers, in points."""
    first, *_ = SCHEDULES
    pairs = [a - b for s in seeds for a, b in zip(s["known"][first], s["known"][other], strict=True)]
    low, high = interval(pairs)
    return f"{100 * mean(pairs):.1f} points ({100 * low:.1f} to {100 * high:.1f})"


def mutants_found(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """The share of each exercise's mutants that its hidden tests find, less 1."""
    return [found / of - 1 for of, found in seeds[0]["mutants"].values()]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    one = seeds[0]
    bank = [[c, *(str(n.get(p, 0)) for p in PATTERNS), str(sum(n.values()))] for c, n in one["patterns"].items()]
    kinds = [[kind, str(count)] for kind, count in one["kinds"].items()]
    parts = [[part, f"{count} of {one['complete'][1]}"] for part, count in one["parts"].items()]
    found = [[name, f"{hit} of {count}"] for name, (count, hit) in one["mutants"].items()]
    kept = [[name, f"{over(seeds, 'known', name):.1%}", f"{over(seeds, 'reviews', name):.0f}"] for name in SCHEDULES]
    return [
        Section("Questions by chapter and pattern", [], [table(["chapter", *PATTERNS, "all"], bank, 0)]),
        Section("What the machine checks of a question", [], [table(["kind", "questions"], kinds, 0)]),
        Section("Rows whose page has the part", [], [table(["part", "rows"], parts, 0)]),
        Section("Changed solutions that hidden tests find", [], [table(["exercise", "found"], found, 0)]),
        Section(
            "Known on the day of the interview",
            [f"{len(seeds) * READERS} simulated readers."],
            [table(["schedule", "items known", "reviews"], kept, 0)],
        ),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    one = seeds[0]
    checked, accepted, fooled = one["checks"]
    count = sum(one["kinds"].values())
    known = [f"{name} {over(seeds, 'known', name):.0%}" for name in SCHEDULES]
    return {
        "questions": count, "chapters": len(one["patterns"]), "checked": checked, "share": checked / count,
        "accepted": accepted, "fooled": fooled, "complete": one["complete"][0], "rows": one["complete"][1],
        "exercises": len(one["mutants"]), "mutants": sum(n for n, _ in one["mutants"].values()),
        "found": sum(n for _, n in one["mutants"].values()), "items": ITEMS, "days": DAYS, "per_day": PER_DAY,
        "known": ", ".join(known), "gain": paired(seeds, "in turn"), "crammed": paired(seeds, "chapter by chapter"),
    }  # fmt: skip
