"""Pattern reward: 1 where an answer has the form that a regular expression describes.

    r(y) = 1[y matches]

The expression is compared with the complete answer, or looked for in it (`where = anywhere`), in its first `most`
characters. One that backtracks for more than `SECONDS` on an answer is an error.

DeepSeek-AI 2025, arXiv:2501.12948, section 2.2.2 (format rewards).
"""

from dataclasses import dataclass
from typing import Any, Literal

import regex

from llmanac.core.errors import DataError, SpecError, shown
from llmanac.rewards import Reward, RewardSpec, Sample, each

CARD = {
    "title": "Pattern reward",
    "paper": "https://arxiv.org/abs/2501.12948",
    "reference": "the regex module",
    "test": "tests/references/test_rewards.py::test_pattern",
    "aliases": {"format": {"pattern": "<think>.*?</think>\\s*<answer>.*?</answer>"}},
}

SECONDS = 2.0  # for an answer


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
            regex.compile(self.pattern, regex.DOTALL)
        except (regex.error, RecursionError, OverflowError) as error:
            raise SpecError(f"pattern: {self.pattern!r} is no regular expression ({error})") from None

    def build(self, **context: Any) -> Reward:
        found = regex.compile(self.pattern, regex.DOTALL)
        match = found.fullmatch if self.where == "all" else found.search

        def score(sample: Sample) -> float:
            text = sample.text[: self.most].strip()
            try:
                return float(match(text, timeout=SECONDS) is not None)
            except TimeoutError:
                raise DataError(
                    f"pattern: {self.pattern!r} takes more than {SECONDS:g} s on the answer {text[:80]!r}, row "
                    f"{shown(dict(sample.row))[:200]}; write one that backtracks less"
                ) from None

        return each(score)
