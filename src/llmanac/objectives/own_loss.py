"""A model's own loss on pictures: contrastive, captioning, reconstruction or denoising, as the model says.

    loss = model.loss(batch)          batch a `data.pictures.Pictures`

Models of images differ in their loss and in little else of training, so each has it beside its formula, in its file in
`models/images`. A loss may depend on the rest of the batch (contrastive pairs, statistics of a codebook), so a step is
never cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import DataError
from llmanac.core.types import LossSum
from llmanac.data.pictures import Pictures
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import BaseObjective

CARD = {
    "title": "The model's own loss on pictures",
    "paper": "Radford et al. 2021, arXiv:2103.00020",
    "reference": "the losses of CLIPModel, SiglipModel and AlignModel in transformers",
    "test": "tests/references/test_clip.py::test_logits_and_loss_equal_transformers",
    "rows": "pictures",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """No choices: they are the model's."""

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> OwnLoss:
        """The objective; rows come encoded, so it needs no tokenizer."""
        return OwnLoss()


class OwnLoss(BaseObjective):
    """The objective; see the module."""

    couples_batch = True

    def collate(self, rows: Sequence[Any] | Pictures) -> Any:
        """`Pictures` as they are. Raises DataError for other rows."""
        if not isinstance(rows, Pictures):
            raise DataError(f"own-loss: rows are {type(rows).__name__}; give Pictures (data/pictures)")
        return rows

    def loss(self, model: Any, batch: Any) -> LossSum:
        """The sum over the model's units, and sums of what it counts besides."""
        found: LossSum = model.loss(batch)
        return found
