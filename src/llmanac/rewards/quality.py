"""A quality classifier as a reward: how much an answer looks like the texts that were wanted.

    r(y) = sigma(w . f(y) + b)          f: hashed n-grams of words (`data/quality_model.py`)

Trained by `llmanac quality train` on texts that are wanted and texts that are not. It knows word statistics only: an
answer that repeats good words is scored high, so it is best used as one part of a gated product (`mix`).

Brown et al. 2020, arXiv:2005.14165, appendix A, for such classifiers as filters.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.rewards import Reward, RewardSpec, each

CARD = {
    "title": "Quality classifier as a reward",
    "paper": "https://arxiv.org/abs/2005.14165",
    "reference": "the classifier called by hand",
    "test": "tests/references/test_rewards.py::test_quality_is_the_classifiers_score",
}


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: path: the folder of a quality model."""

    path: str = "quality"

    def build(self, **context: Any) -> Reward:
        """Raises DataError for a folder that is no quality model."""
        from llmanac.data.quality_model import load_quality

        model = load_quality(self.path)
        return each(lambda sample: model.score(sample.text))
