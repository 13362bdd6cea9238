"""Pattern reward: 1 where an answer has the form that a regular expression describes.

    r(y) = 1[y matches]

The expression is compared with the complete answer, or looked for in it (`where = anywhere`), in its first `most`
characters. It is the user's own: one that backtracks without end on some answer takes that long.

DeepSeek-AI 2025, arXiv:2501.12948, section 2.2.2 (format rewards).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from llmanac.core.errors import SpecError
from llmanac.rewards import Reward, RewardSpec, Sample, each

CARD = {
    "title": "Pattern reward",
    "paper": "https://arxiv.org/abs/2501.12948",
    "reference": "Python's re",
    "test": "tests/references/test_rewards.py::test_pattern",
    "aliases": {"format": {"pattern": "<think>.*?</think>\\s*<answer>.*?</answer>"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: pattern: a regular expression, in which `.` is any character; where: `all` of the answer or anywhere.

    most: characters of an answer that are looked at.
    """

    pattern: str = ".+"
    where: Literal["all", "anywhere"] = "all"
    most: int = 20_000

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise SpecError(f"pattern: {self.pattern!r} is no regular expression ({error})") from None

    def build(self, **context: Any) -> Reward:
        found = re.compile(self.pattern, re.DOTALL)

        def score(sample: Sample) -> float:
            text = sample.text[: self.most].strip()
            return float((found.fullmatch(text) if self.where == "all" else found.search(text)) is not None)

        return each(score)
