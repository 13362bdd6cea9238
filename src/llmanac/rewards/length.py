"""Length reward: nothing up to a length, then linearly less: answers stay within their budget.

    r(y) = 0                              n <= target
           -(n - target) / window         target < n <= target + window
           -1                             beyond

n counts tokens. Yu et al. 2025, DAPO (arXiv:2503.14476), section 3.4, soft overlong punishment.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.rewards import Reward, RewardSpec, each

CARD = {
    "title": "Length reward",
    "paper": "https://arxiv.org/abs/2503.14476",
    "reference": "TRL's get_soft_overlong_punishment",
    "test": "tests/references/test_rewards.py::test_length_equals_trl",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: target: tokens without a penalty; window: tokens over which it grows to -1."""

    target: int = 256
    window: int = 64

    ranges = within(NOT_NEGATIVE, "target") | within(COUNT, "window")

    def build(self, **context: Any) -> Reward:
        return each(lambda sample: -min(1.0, max(0, sample.tokens - self.target) / self.window))
