"""What people rate, what they said, and the rows for `llmanac align` that this gives."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError, shown
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.metrics import OUTCOMES

QUESTIONS, RATINGS, PREFERENCES = "questions.jsonl", "ratings.jsonl", "preferences.jsonl"
SCORES = (1, 2, 3, 4, 5)
MOST_TASKS = 100_000
Mode = Literal["compare", "score"]


@dataclass(frozen=True)
class RatingTask:
    """What is rated at once: a question (its number) and the models whose answers are shown, two or one."""

    item: int
    models: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Questions:
    """prompts: (N,) texts; answers: by model, (N,) texts."""

    prompts: list[str]
    answers: dict[str, list[str]]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError("prompts: there is none to rate answers of")
        for name, given in self.answers.items():
            if len(given) != len(self.prompts):
                raise DataError(f"{name}: has {len(given)} answers to {len(self.prompts)} prompts; give one for each")

    def tasks(self, mode: Mode) -> list[RatingTask]:
        """Every pair of models on every prompt, or every answer. Answers that are the same text are not compared.

        Raises:
            SpecError: fewer than two models for comparisons, or more tasks than a page should hold.
        """
        names = list(self.answers)
        if not names or (mode == "compare" and len(names) < 2):
            raise SpecError("--models: comparisons need the answers of at least two models; name them with commas")
        groups = list(itertools.combinations(names, 2)) if mode == "compare" else [(name,) for name in names]
        found = [
            RatingTask(item, group)
            for item in range(len(self.prompts)) for group in groups
            if len({self.answers[name][item].strip() for name in group}) == len(group)
        ]  # fmt: skip
        if not found:
            raise DataError("answers: all models answer each prompt alike; there is nothing to compare")
        if len(found) > MOST_TASKS:
            raise SpecError(f"{len(found):,} ratings are too many for a page ({MOST_TASKS:,}); give fewer prompts")
        return found

    def save(self, folder: Path) -> None:
        """Write them; refuses a folder with ratings of other questions."""
        rows = [
            {"prompt": prompt, "answers": {name: given[i] for name, given in self.answers.items()}}
            for i, prompt in enumerate(self.prompts)
        ]
        path = folder / QUESTIONS
        if (folder / RATINGS).exists() and path.exists():
            kept = Questions.load(folder)
            if (kept.prompts, kept.answers) != (self.prompts, self.answers):
                raise SpecError(f"-o: {folder} has ratings of other questions or answers; name another folder")
            return
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files.write_bytes(path, text.encode("utf-8", "backslashreplace"))

    @classmethod
    def load(cls, folder: Path) -> Questions:
        """Read them back. Raises DataError for a missing or damaged file; it names file and line."""
        path = folder / QUESTIONS
        prompts: list[str] = []
        answers: dict[str, list[str]] = {}
        for row in table_rows(path, CommandProblems()):
            prompt, given = row.values.get("prompt"), row.values.get("answers")
            if not isinstance(prompt, str) or not isinstance(given, dict) or not _all_texts(given):
                raise DataError(f"{path}:{row.line}: needs a prompt and the answers of models, all of them texts")
            if prompts and set(given) != set(answers):
                raise DataError(f"{path}:{row.line}: has answers of other models than the lines before")
            prompts.append(prompt)
            for name, text in given.items():
                answers.setdefault(name, []).append(text)
        return cls(prompts, answers)


def _all_texts(given: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in given.values())


@dataclass(frozen=True)
class Rating:
    """A line of the file. models: left and right of a comparison, or the one that is scored; value: left, right or tie,
    or the score."""

    rater: str
    item: int
    models: tuple[str, ...]
    value: str | int

    @property
    def task(self) -> tuple[Any, ...]:
        return self.item, frozenset(self.models)

    def as_json(self) -> dict[str, Any]:
        if len(self.models) == 1:
            return {"rater": self.rater, "item": self.item, "model": self.models[0], "score": self.value}
        left, right = self.models
        return {"rater": self.rater, "item": self.item, "left": left, "right": right, "choice": self.value}

    @classmethod
    def of(cls, row: Mapping[str, Any], place: str) -> Rating:
        """Raises DataError that names the place and the field."""
        rater, item = row.get("rater"), row.get("item")
        models = (row.get("model"),) if "model" in row else (row.get("left"), row.get("right"))
        value = row.get("score") if len(models) == 1 else row.get("choice")
        if not isinstance(rater, str) or not rater or type(item) is not int or item < 0:
            raise DataError(f"{place}: rater must be a name and item the number of a question")
        if not all(isinstance(name, str) and name for name in models) or len(set(models)) < len(models):
            raise DataError(f"{place}: left and right must name two models, or model one")
        good = (
            type(value) is int and value in SCORES if len(models) == 1 else isinstance(value, str) and value in OUTCOMES
        )
        if not good:
            expected = "a score from 1 to 5" if len(models) == 1 else "left, right or tie"
            raise DataError(f"{place}: {shown(value)} is not {expected}")
        return cls(rater, item, models, value)  # type: ignore[arg-type]


def latest(ratings: Sequence[Rating]) -> list[Rating]:
    """Without those that their rater replaced."""
    return list({(one.rater, *one.task): one for one in ratings}.values())


def _margins(ratings: Sequence[Rating]) -> Iterator[tuple[int, str, str]]:
    """`(item, preferred model, other model)` by the majority of raters; nothing where they are even."""
    compared: dict[tuple[int, str, str], float] = defaultdict(float)
    scored: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for one in latest(ratings):
        if len(one.models) == 1:
            scored[one.item][one.models[0]].append(int(one.value))
            continue
        won, (left, right) = OUTCOMES[str(one.value)] - 0.5, one.models
        low, high = sorted((left, right))
        compared[one.item, low, high] += won if low == left else -won
    for (item, low, high), margin in compared.items():
        if margin:
            yield (item, low, high) if margin > 0 else (item, high, low)
    for item, by_model in scored.items():
        for low, high in itertools.combinations(sorted(by_model), 2):
            margin = float(np.mean(by_model[low]) - np.mean(by_model[high]))
            if margin:
                yield (item, low, high) if margin > 0 else (item, high, low)


def preferences(questions: Questions, ratings: Sequence[Rating]) -> tuple[list[dict[str, str]], int]:
    """TRL's rows, one a pair that the majority prefers one of, and how many are left out: an answer is blank."""
    texts, found = questions.answers, sorted(_margins(ratings))
    for item, *models in found:
        if item >= len(questions.prompts) or not texts.keys() >= set(models):
            raise DataError(f"ratings: question {item} with answers of {', '.join(models)} is not in questions.jsonl")
    rows = [{"prompt": questions.prompts[i], "chosen": texts[one][i], "rejected": texts[other][i]}
            for i, one, other in found]  # fmt: skip
    kept = [row for row in rows if row["chosen"].strip() and row["rejected"].strip()]
    return kept, len(rows) - len(kept)


def write_preferences(folder: Path, questions: Questions, ratings: Sequence[Rating]) -> None:
    """Write `preferences`, in whole or not at all; a file that holds them already is left as it is."""
    path = folder / PREFERENCES
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in preferences(questions, ratings)[0]]
    data = "".join(lines).encode("utf-8", "backslashreplace")
    if (path.read_bytes() if path.is_file() else b"") != data or not path.exists():
        files.write_bytes(path, data)


def written(folder: Path) -> int:
    """How many rows the file has."""
    path = folder / PREFERENCES
    return path.read_bytes().count(b"\n") if path.is_file() else 0
