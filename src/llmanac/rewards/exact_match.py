"""Exact match: 1 where the answer in a text is the row's own answer, under a benchmark's convention.

    r(y) = 1[extract(y) = answer]

Conventions (`metrics/answers`): squad (lower case, no articles or punctuation), gsm8k, math, ... It is fast, and
blind to every right answer that the convention does not find.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.metrics.answers import convention, correct
from llmanac.rewards import Reward, RewardSpec, Sample, each

CARD = {
    "title": "Exact match of answers",
    "paper": "https://arxiv.org/abs/2110.14168",
    "reference": "lm-eval's filters and metrics, by convention",
    "test": "tests/references/test_rewards.py::test_exact_match",
    "aliases": {"math": {"convention": "math"}, "numeric": {"convention": "gsm8k-flexible"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: convention: how answers are found and compared; column: of the row's answer, a text or several."""

    convention: str = "squad"
    column: str = "answer"

    def build(self, **context: Any) -> Reward:
        convention(self.convention)

        def score(sample: Sample) -> float:
            known = sample.column(self.column)
            answers = [str(a) for a in known] if isinstance(known, (list, tuple)) else str(known)
            return float(correct(sample.text, answers, self.convention))

        return each(score)
