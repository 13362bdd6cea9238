"""The reward model's loss: the chosen answer's score should be above the rejected one's.

    loss = -log sigmoid(v(x, y+) - v(x, y-) - m) + c (v(x, y+) + v(x, y-))^2

v is the score at an answer's last token, m a margin of the row where it has one, and c keeps scores near 0, which the
first term leaves open. The model is a `ScalarModel` (`models/scalar.py`).

Shapes: scores (2 n,) of n pairs; the loss is the sum over pairs.

Papers: Bradley and Terry 1952; Ouyang et al. 2022 (https://arxiv.org/abs/2203.02155), equation 1; Eisenstein et al.
2023 (https://arxiv.org/abs/2312.09244) for c; Touvron et al. 2023 for m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.core.types import IGNORE, Batch, LossSum
from llmanac.objectives._base import AnswerRows
from llmanac.objectives._preference import Preference, PreferenceSpec

CARD = {
    "title": "Reward model (Bradley-Terry)",
    "paper": "https://arxiv.org/abs/2203.02155",
    "reference": "TRL's RewardTrainer: loss and gradient",
    "test": "tests/references/test_reward_model.py::test_loss_and_gradient_equal_trl",
    "rows": "preferences",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PreferenceSpec):
    """Attributes: centre: c, 0 for none; margin: the column of m, None for none."""

    needs_reference = False

    centre: float = 0.01
    margin: str | None = None

    ranges = within(NOT_NEGATIVE, "centre")

    def reader(self, tokenizer: Any) -> PairRows:
        return PairRows(tokenizer, self.columns, self.margin)

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> BradleyTerry:
        return BradleyTerry(self, tokenizer, models, dims.get("reader"))


class PairRows(AnswerRows):
    """Pairs of answers, and their margin where one is read."""

    def __init__(self, tokenizer: Any, columns: tuple[str, ...], margin: str | None) -> None:
        super().__init__(tokenizer, columns)
        self.margin = margin

    def further(self, row: Any) -> tuple[Any, ...]:
        try:
            return () if self.margin is None else (float(row[self.margin]),)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"margin: the row has no number in the column {self.margin!r}") from None


@dataclass(frozen=True, kw_only=True)
class RewardPairs(Batch):
    """Chosen answers, then rejected ones; `margins` (n,)."""

    margins: Tensor


class BradleyTerry(Preference):
    """See the module. The batch holds complete texts: inputs reach their last token."""

    batch = RewardPairs

    def collate(self, rows: Sequence[Any]) -> Batch:
        encoded = self.read(rows)
        ids = [answers[n][0] for n in range(2) for answers in encoded]
        targets = [np.where(answers[n][1], answers[n][0], IGNORE) for n in range(2) for answers in encoded]
        batch = Batch.padded(ids, targets)
        if self.spec.margin is None:
            return batch
        return RewardPairs(**vars(batch), margins=torch.tensor([row[-1] for row in encoded]))

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Metrics: how often the chosen answer scores higher, both scores, their distance."""
        last = model.values(batch).gather(1, batch.last[:, None]).squeeze(1)
        better, worse = self.halves(last)
        apart = better - worse
        losses = -F.logsigmoid(apart - batch.margins if isinstance(batch, RewardPairs) else apart)
        if self.spec.centre:
            losses = losses + self.spec.centre * (better + worse).square()
        metrics = {
            "accuracy": (apart.detach().sign() + 1).sum() / 2, "score_chosen": better.detach().sum(),
            "score_rejected": worse.detach().sum(), "distance": apart.detach().sum(),
        }  # fmt: skip
        return losses.sum(), len(losses), metrics
