"""Questions from a file, answered in blocks: what `llmanac reason` runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.progress import progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.generate.engine import Engine
from llmanac.metrics.answers import correct, extract
from llmanac.reason import Found, Method, Question

AT_ONCE = 16  # questions that are answered in one batch


@dataclass(frozen=True)
class Answered:
    """A question, what was found, and whether each candidate is right; None where the row has no answer."""

    question: Question
    found: Found
    right: list[bool] | None

    def as_json(self) -> dict[str, Any]:
        """One line of the output."""
        found = self.found
        line: dict[str, Any] = {
            "question": self.question.text, "answer": found.answer, "text": found.text,
            "score": found.candidates[found.chosen].score, "tied": list(found.tied),
            "tokens": {**vars(found.cost), "total": found.cost.total},
            "candidates": [{"text": c.text, "answer": c.answer, "score": c.score} for c in found.candidates],
        }  # fmt: skip
        return line if self.right is None else {**line, "right": self.right[found.chosen]}


def read_questions(engine: Engine, path: Path, *, column: str, template: str, chat: bool) -> list[Question]:
    """The questions of a table; all other columns are kept for verifiers.

    Raises:
        DataError: no such file, a row without the column, or a prompt that the engine refuses; it names file and line.
    """
    out = []
    for row in table_rows(path, CommandProblems()):
        text = row.values.get(column)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{path}:{row.line}: the column {column!r} has no text; --column names another")
        try:
            out.append(Question.of(engine, template.replace("{question}", text), row.values, chat=chat))
        except LlmanacError as error:
            raise DataError(f"{path}:{row.line}: {error}") from None
    if not out:
        raise DataError(f"{path}: holds no question")
    return out


def answered(
    method: Method, questions: Sequence[Question], *, convention: str, column: str | None, seed: int
) -> Iterator[Answered]:
    """Each question's answer; `column` is that of the right answer, None where there is none."""
    with progress("reason", len(questions), "questions") as bar:
        for at in range(0, len(questions), AT_ONCE):
            some = list(questions[at : at + AT_ONCE])
            for question, found in zip(some, method(some, seed=seed), strict=True):
                yield Answered(question, found, _right(question, found, convention, column))
            bar.advance(len(some))


def convention_of(known: Sequence[Any]) -> str:
    """The convention that suits right answers: numbers, letters of choices, LaTeX or texts; numbers without any."""
    texts = [str(text).strip() for one in known if one is not None for text in (one if _several(one) else [one])]
    if any("\\boxed" in text or "\\frac" in text or "\\sqrt" in text for text in texts):
        return "math"
    if all("####" in text or extract(text, "gsm8k-flexible") == text for text in texts):
        return "gsm8k-flexible"
    return "choice" if all(re.fullmatch("[A-Z]", text) for text in texts) else "squad"


def _several(known: Any) -> bool:
    return isinstance(known, (list, tuple))


def _right(question: Question, found: Found, convention: str, column: str | None) -> list[bool] | None:
    known = None if column is None else question.row.get(column)
    if known is None:
        return None
    answers = [str(a) for a in known] if _several(known) else str(known)
    return [correct(candidate.text, reference(answers, convention), convention) for candidate in found.candidates]


def reference(answers: str | list[str], convention: str) -> str | list[str]:
    """The right answers as the convention finds them in a worked solution (GSM8K's rows), else as they are."""

    def one(text: str) -> str:
        return (extract(text, convention) or text) if "####" in text or "\\boxed" in text else text

    return one(answers) if isinstance(answers, str) else [one(text) for text in answers]
