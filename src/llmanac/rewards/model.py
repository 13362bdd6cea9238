"""A reward model as a reward: the normalised score of prompt and answer.

    r(x, y) = (v(x, y) - mean) / deviation          v at the last token of the answer

Trained from pairs by the objective `bradley-terry`. It is flexible and can be fooled: the policy finds texts that it
scores too high, so its reward is shown next to a true one wherever there is one (Gao et al. 2022, arXiv:2210.10760).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llmanac.core.types import Batch
from llmanac.rewards import Reward, RewardScore, RewardSpec, Sample

CARD = {
    "title": "Reward model",
    "paper": "https://arxiv.org/abs/2009.01325",
    "reference": "the model called by hand",
    "test": "tests/references/test_reward_model.py::test_reward_is_the_normalised_score",
}
AT_ONCE = 32  # answers scored together


@dataclass(frozen=True, kw_only=True)
class Spec(RewardSpec):
    """Attributes: path: the folder of a reward model."""

    path: str = "reward-model"

    def build(self, **context: Any) -> Reward:
        from llmanac.models.scalar import load_scalar
        from llmanac.tokenizers.load import load_tokenizer

        model, tokenizer = load_scalar(self.path), load_tokenizer(self.path)
        return ModelReward(model.eval(), tokenizer)


class ModelReward:
    """Scores texts with a ScalarModel; an answer that ended by itself is scored at its end token."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample]) -> list[RewardScore]:
        limit = self.model.trunk.max_length
        rows = [self.ids(sample)[-limit if limit else None :] for sample in samples]
        out: list[RewardScore] = []
        for at in range(0, len(rows), AT_ONCE):
            some = rows[at : at + AT_ONCE]
            values = self.model.scores(Batch.padded(some, device=self.model.device))
            out += [RewardScore(float(value), tokens=len(row)) for value, row in zip(values, some, strict=True)]
        return out

    def ids(self, sample: Sample) -> list[int]:
        """The tokens of a prompt and its answer, encoded together."""
        ids = list(self.tokenizer.encode(sample.prompt + sample.text, special="all"))
        end = self.tokenizer.eos_id
        return [*ids, end] if sample.finished and end is not None else ids
