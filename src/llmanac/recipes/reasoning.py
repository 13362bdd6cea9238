"""Questions from a file, answered in blocks, and accuracy over the number of samples: what `llmanac reason` runs.

    accuracy(k) = mean over questions of  mean over subsets S of k of its n samples of  1[the choice from S is right]

The mean over all subsets is an unbiased estimate of what k fresh samples give. Where there are more than `MOST` subsets
as many are drawn at random, which is unbiased too. Nothing is sampled again.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.progress import progress
from llmanac.core.rng import numpy_generator
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.generate.engine import Engine
from llmanac.metrics import wilson_interval
from llmanac.metrics.answers import correct, extract
from llmanac.metrics.statistics.estimates import estimate
from llmanac.reason import Found, Question, ReasoningMethod

AT_ONCE = 16  # questions that are answered in one batch
MOST = 13_000  # subsets; those of 8 among 16 are 12,870


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
    method: ReasoningMethod, questions: Sequence[Question], *, convention: str, column: str | None, seed: int
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


@dataclass(frozen=True)
class SamplesPoint:
    """Accuracy with k samples, its 95% interval over questions (None for a single one), and a question's tokens."""

    k: int
    accuracy: float
    interval: tuple[float, float] | None
    tokens: float


def curve(found: Sequence[Found], correct: Sequence[Sequence[bool]], *, seed: int = 0) -> list[SamplesPoint]:
    """A point for k = 1, 2, 4, ... n.

    Args:
        correct: for each question, whether each of its candidates is right.

    Raises:
        DataError: a method that does not choose among independent samples, or no question.
    """
    if not found or any(one.support is None for one in found):
        raise DataError("curve: only methods that choose among independent samples have one (best-of-n, voting, mbr)")
    n = min(len(one.candidates) for one in found)
    sizes = [2**i for i in range(n.bit_length()) if 2**i < n] + [n]
    right = [np.asarray(own, np.float64) for own in correct]
    points = []
    for k in sizes:
        masks = subsets(n, k, seed)
        each = np.array([right_share(one, own, masks) for one, own in zip(found, right, strict=True)])
        points.append(
            SamplesPoint(k, float(each.mean()), _interval(each), sum(_tokens(one, k) for one in found) / len(found))
        )
    return points


def _interval(each: np.ndarray) -> tuple[float, float] | None:
    """Wilson's where every question is right or wrong, as `llmanac evaluate` has it; else the normal one."""
    if len(each) < 2:
        return None
    if np.isin(each, (0.0, 1.0)).all():
        return wilson_interval(int(each.sum()), len(each))[1:]
    over = estimate(each)
    return max(0.0, over.low), min(1.0, over.high)


def subsets(n: int, k: int, seed: int = 0) -> np.ndarray:
    """(S, n) bool: every subset of k among n, or `MOST` random ones."""
    if math.comb(n, k) <= MOST:
        chosen = np.array(list(itertools.combinations(range(n), k)))
    else:
        chosen = numpy_generator(seed, "subsets", n, k).random((MOST, n)).argsort(1)[:, :k]
    masks = np.zeros((len(chosen), n), bool)
    np.put_along_axis(masks, chosen, True, 1)
    return masks


def right_share(found: Found, right: np.ndarray, masks: np.ndarray) -> float:
    """The share of subsets (S, n) whose choice is right."""
    assert found.support is not None
    totals = masks.astype(np.float64) @ found.support[: masks.shape[1], : masks.shape[1]].T
    return float(right[np.where(masks, totals, -np.inf).argmax(1)].mean())


def _tokens(found: Found, k: int) -> float:
    """The prompt once, and k of the n answers with what was read for them."""
    return found.cost.prompt + (found.cost.sampled + found.cost.verifier) * k / len(found.candidates)
