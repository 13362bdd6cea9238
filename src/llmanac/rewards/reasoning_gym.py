"""Reasoning Gym's own scorers: procedurally made tasks with a verifier for each.

    r(y) = score_answer(extracted answer, entry)          in [0, 1]

Rows hold the entry: `question`, `answer`, `metadata` (with `source_dataset`). The answer is what stands between
<answer> and </answer>, or the complete text. Needs `llmanac[reasoning-gym]`.

Stojanovski et al. 2025, arXiv:2505.24760.
"""

import re
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.rewards import Reward, RewardSpec, Sample, each

CARD = {
    "title": "Reasoning Gym's scorers",
    "paper": "https://arxiv.org/abs/2505.24760",
    "reference": "reasoning_gym: scores of the same answers",
    "test": "tests/references/test_rewards.py::test_reasoning_gym_scores_are_its_own",
}
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: task: the data set's name where rows do not name it in their metadata."""

    task: str | None = None

    def build(self, **context: Any) -> Reward:
        try:
            import reasoning_gym
        except ImportError:
            raise SpecError("reward: reasoning-gym is not installed; pip install 'llmanac[reasoning-gym]'") from None
        scorers: dict[str, Any] = {}

        def score(sample: Sample) -> float:
            entry = {name: sample.column(name) for name in ("question", "answer", "metadata")}
            name = self.task or entry["metadata"].get("source_dataset", "")
            if name not in scorers:
                try:
                    scorers[name] = reasoning_gym.get_score_answer_fn(name)
                except Exception as error:
                    raise SpecError(f"task: {name!r} is no task of reasoning-gym ({error})") from None
            found = ANSWER.findall(sample.text)
            return float(scorers[name]((found[-1] if found else sample.text).strip(), entry))

        return each(score)
