"""Exact match: the fraction of texts whose answer equals a reference under a benchmark's convention.

    EM = 1/S sum over s of max over references r of [answer(text_s) = r]          F1, for `squad` and `drop`, likewise

`metrics.answers` has the conventions: how the answer is found in a text and when two are equal. SQuAD and DROP also
give credit for words in common (F1). A reference of DROP may be a list of spans. In SQuAD 2 a question without an
answer has an empty reference, which only an empty text equals. Shapes: S texts -> (S,) of 0 and 1.

It is unambiguous and strict: "42 apples" is wrong where "42" is wanted, unless the convention says otherwise.
Rajpurkar et al. 2016 (SQuAD); Dua et al. 2019 (DROP); Cobbe et al. 2021 (GSM8K); Hendrycks et al. 2021 (MATH).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.metrics import MetricSpec
from llmanac.metrics.answers import convention, drop, extract, f1
from llmanac.metrics.statistics.corpus import Measured, mean_of

CARD = {
    "title": "Exact match of answers, and word F1",
    "paper": "Rajpurkar et al. 2016, arXiv:1606.05250; Dua et al. 2019, arXiv:1903.00161",
    "reference": "torchmetrics' SQuAD; lm-eval's drop, triviaqa, gsm8k, hendrycks_math, minerva_math (without sympy)",
    "test": "tests/references/test_exact_match.py::test_squad_equals_torchmetrics",
    "aliases": {
        "squad": {"convention": "squad"},
        "drop": {"convention": "drop"},
        "triviaqa": {"convention": "triviaqa"},
        "gsm8k": {"convention": "gsm8k"},
        "gsm8k-flexible": {"convention": "gsm8k-flexible"},
        "hendrycks-math": {"convention": "hendrycks-math"},
        "minerva-math": {"convention": "minerva-math"},
        "math": {"convention": "math"},
        "choice": {"convention": "choice"},
    },
}
Reference = str | Sequence[str | Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """convention: one of `metrics.answers.CONVENTIONS`."""

    convention: str = "squad"

    def __post_init__(self) -> None:
        convention(self.convention)  # its own check

    def build(self, **dims: Any) -> Callable[..., ExactMatch]:
        return lambda texts, references: exact_matches(texts, references, self.convention)


@dataclass(frozen=True, eq=False)
class ExactMatch:
    """matches: exact matches of the corpus; f1: word F1 for `squad` and `drop`, else None; answers: what was found in
    each text, None where nothing was."""

    matches: Measured
    f1: Measured | None
    answers: tuple[str | None, ...]


def exact_matches(texts: Sequence[str], references: Sequence[Reference], name: str = "squad") -> ExactMatch:
    """Compare the answers in S texts with the references of each; see the module.

    Raises:
        DataError: lists of different lengths, or a text without a reference; it names the row, counted from 1.
    """
    rule = convention(name)
    if len(texts) != len(references) or not texts:
        raise DataError(f"{len(texts)} texts but {len(references)} rows of references; give a row for each")
    answers, found = [], np.zeros((len(texts), 2))
    for row, (text, given) in enumerate(zip(texts, references, strict=True)):
        golds = [given] if isinstance(given, str) else list(given)
        if not golds:
            raise DataError(f"row {row + 1}: has no reference; give at least one, or leave the row out")
        answer = extract(text, name)
        answers.append(answer)
        if answer is None:
            continue
        if name == "drop":
            found[row] = np.max([drop(answer, gold) for gold in golds], axis=0)
            continue
        found[row, 0] = any(isinstance(gold, str) and rule.equal(answer, gold) for gold in golds)
        if name == "squad":
            found[row, 1] = f1(answer, [str(gold) for gold in golds])
    signature = f"convention:{name}"
    scored = mean_of(found[:, 1], "F1", signature) if name in ("squad", "drop") else None
    return ExactMatch(mean_of(found[:, 0], "exact match", signature), scored, tuple(answers))
