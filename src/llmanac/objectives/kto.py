"""KTO: answers that are good or bad on their own, with no pairs; losses weigh more than gains.

    r(x, y) = beta * log(pi(y | x) / ref(y | x)),    z = max(0, mean over i of r(x_i, y_i+1))
    good answers: w+ (1 - sigmoid(r - z)),           bad answers: w- (1 - sigmoid(z - r))

z estimates beta KL(pi || ref) with other answers than the prompt's own: each prompt is given the answer of the next
row. It carries no gradient. It joins the rows of a step, which therefore cannot be cut into micro-batches; ranks
add up what it is the mean of.

Paper: Ethayarajh et al. 2024 (https://arxiv.org/abs/2402.01306), equations 7 and 8. Rows: prompt, completion, label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.ranges import POSITIVE, within
from llmanac.core.types import Batch, LossSum
from llmanac.objectives._base import AnswerRows, Encoded, collate_ragged
from llmanac.objectives._preference import Preference, PreferenceSpec

CARD = {
    "title": "Kahneman-Tversky optimization (KTO)",
    "paper": "https://arxiv.org/abs/2402.01306",
    "reference": "TRL's KTOTrainer: loss and gradient",
    "test": "tests/references/test_preference.py::test_kto_equals_trl",
    "rows": "labelled answers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(PreferenceSpec):
    """Attributes: beta: as in DPO; good, bad: weights w of each sort; choose them so that both sorts weigh alike."""

    columns = ("completion",)

    beta: float = 0.1
    good: float = 1.0
    bad: float = 1.0

    ranges = within(POSITIVE, "beta good bad")

    def reader(self, tokenizer: Any) -> LabelledRows:
        return LabelledRows(tokenizer, self.columns)

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> KTO:
        """models: {"reference": a frozen model}; left out where an adapter is trained, which is then disabled."""
        return KTO(self, tokenizer, models, dims.get("reader"))


class LabelledRows(AnswerRows):
    """`((ids, loss mask), good)` of rows with a label."""

    def further(self, row: Any) -> tuple[Any, ...]:
        label = row.get("label") if isinstance(row, Mapping) else None
        if label not in (True, False):
            raise DataError(f"label: true or false was expected, not {label!r}")
        return (bool(label),)


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(Batch):
    """Own answers, then prompts with other answers; `good` (B,) says which of the first B answers are good."""

    good: Tensor | None = None


class KTO(Preference):
    """See the module."""

    couples_batch = True
    batch = LabelledBatch

    def collate(self, rows: Sequence[Any]) -> LabelledBatch:
        """Raises DataError for fewer than two rows: each needs another's answer."""
        return self.collate_parts(rows, [(0, len(rows))])[0]

    def collate_parts(self, rows: Sequence[Any], cuts: Sequence[tuple[int, int]]) -> list[LabelledBatch]:
        if len(rows) < 2:
            raise DataError("KTO needs at least two rows a step: each is compared with another's answer")
        encoded = self.read(rows)
        own = [pair for pair, _ in encoded]
        crossed = [_with_answer(pair, other) for pair, other in zip(own, [*own[1:], own[0]], strict=True)]
        labels = torch.tensor([good for _, good in encoded])
        batches = [(collate_ragged([*own[a:b], *crossed[a:b]]), labels[a:b]) for a, b in cuts]
        return [LabelledBatch(**vars(batch), good=good) for batch, good in batches]

    def loss(self, model: Any, batch: Batch) -> LossSum:
        assert isinstance(batch, LabelledBatch) and batch.good is not None
        spec, good = self.spec, batch.good
        own, _ = self.log_probabilities(model, batch)
        rewards, crossed = self.halves(spec.beta * (own - self.reference(model, batch)))
        total = torch.stack([crossed.detach().sum(), crossed.new_tensor(len(crossed))])
        self.add_up(total)
        z = (total[0] / total[1]).clamp(min=0)
        losses = torch.where(
            good, spec.good * (1 - torch.sigmoid(rewards - z)), spec.bad * (1 - torch.sigmoid(z - rewards))
        )
        seen = rewards.detach()
        metrics = {
            "kl": z / spec.beta * len(seen),
            "reward_good": (seen * good).sum(),
            "reward_bad": (seen * ~good).sum(),
        }
        return losses.sum(), len(losses), metrics


def _with_answer(pair: Encoded, other: Encoded) -> Encoded:
    """The prompt of one row with the answer of another."""
    ids, start = pair[0], int(pair[1].argmax())
    joined = torch.cat([torch.from_numpy(ids[:start]), torch.from_numpy(other[0][int(other[1].argmax()) :])]).numpy()
    return joined, torch.arange(len(joined)).ge(start).numpy()
