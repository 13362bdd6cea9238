"""Classification of every beginning: the class of a text has to be known after each of its tokens.

    loss = sum_i sum_(t <= T_i) l(z_it, y_i)        z (B, T) log-odds after each token, y_i in {0, 1}

l is binary cross-entropy. A text's beginnings all have its class, so z_it becomes log-odds of the class given the
beginning x_<=t, which is what steering a generation by FUDGE needs (`generate/constrain/fudge.py`). Rows are
`data.examples.Examples`; the model maps ids (B, T) with lengths (B,) to scores (B, T). Units are tokens.

Paper: Yang & Klein 2021, arXiv:2104.05218, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from llmanac.core.errors import DataError
from llmanac.core.types import BagOfWords, Batch, LossSum
from llmanac.data.examples import Examples, batch_of
from llmanac.metrics import Metric
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import BaseObjective
from llmanac.objectives._measured import LOSS

CARD = {
    "title": "Classification of beginnings",
    "paper": "Yang & Klein 2021, arXiv:2104.05218",
    "reference": "torch's binary_cross_entropy_with_logits of each beginning alone: value and gradient",
    "test": "tests/references/test_fudge.py::test_the_loss_is_that_of_every_beginning",
    "rows": "examples",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """No choices."""

    def build(
        self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any
    ) -> PrefixClassification:
        """The objective; rows come encoded, so it needs no tokenizer."""
        return PrefixClassification()


class PrefixClassification(BaseObjective):
    """See the module."""

    metrics = (LOSS, Metric("accuracy", "", "higher", "accuracy over beginnings, held out"))

    def collate(self, rows: Sequence[Any]) -> Batch | BagOfWords:
        """`Examples` to one batch. Raises DataError for other rows, or for a class that is neither 0 nor 1."""
        if not isinstance(rows, Examples):
            raise DataError(f"prefix-classification: rows are {type(rows).__name__}; give Examples (data/examples.py)")
        if len(rows) and not set(rows.classes.tolist()) <= {0, 1}:
            raise DataError("prefix-classification: classes are 0 and 1; a row has another one")
        return batch_of(rows, "padded")

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The summed loss of all beginnings, how many they are, and how many of them are on the right side of 0."""
        scores = model(batch)
        assert batch.targets is not None and batch.lengths is not None
        classes = batch.targets[:, None].to(scores).expand_as(scores)
        real = torch.arange(scores.shape[1], device=scores.device)[None] < batch.lengths[:, None]
        losses = F.binary_cross_entropy_with_logits(scores, classes, reduction="none")
        right = ((scores > 0) == (classes > 0)) & real
        return torch.where(real, losses, 0).sum(), batch.lengths.sum(), {"accuracy": right.sum()}
