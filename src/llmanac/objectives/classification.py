"""Classification: the loss of a row's scores over the classes against its class.

    loss = sum_i l(s(x_i), y_i) + B l2 / 2 sum_w w^2              s(x_i) (K,) scores, y_i the class of row i

l is a method of the kind `loss`: cross-entropy over C classes (K = C), or binary cross-entropy (K = 1 for two classes,
else one against the rest). The penalty is that of the mean loss, l2 / 2 |w|^2, times the B rows of the batch, so that
the trainer's division leaves it unchanged; it covers what the model lists as `penalised` (by default its matrices, not
its biases). With l2 = 1 / (c N) over N rows, a linear model has scikit-learn's LogisticRegression(C=c) as its optimum.

Rows are `data.examples.Examples`. As a `bag` they go to the model as `BagOfWords`, ids (N,) one list after the other
with lengths (B,); `padded` as ids (B, T) with lengths (B,). Targets are the classes (B,), the model's scores (B, K).

Paper: Cox 1958 and Bridle 1990 for the losses; Radford et al. 2018, section 3.2, for the head on a language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.core.types import BagOfWords, Batch, LossSum, evaluating
from llmanac.data.examples import Examples, Form, batch_of
from llmanac.generate.runner import device_of
from llmanac.metrics import ItemSums, Metric
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import BaseObjective
from llmanac.objectives._measured import LOSS
from llmanac.objectives.losses import LossSpec
from llmanac.objectives.losses.cross_entropy import Spec as CrossEntropy

CARD = {
    "title": "Classification",
    "paper": "https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
    "reference": "scikit-learn's LogisticRegression: its optimum; a plain PyTorch loop: its curve",
    "test": "tests/references/test_classifiers.py::test_bow_reaches_the_optimum_of_logistic_regression",
    "rows": "examples",
}

ROWS = 1024  # measured at once


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """Attributes: loss: what scores cost. l2: penalty on the mean loss. form: how rows go to the model."""

    loss: LossSpec = field(default_factory=CrossEntropy)
    l2: float = 0.0
    form: Form = "bag"

    ranges = within(NOT_NEGATIVE, "l2")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> Classification:
        """The objective; rows come encoded, so it needs no tokenizer."""
        return Classification(self)


class Classification(BaseObjective):
    """The objective; see the module's formula."""

    metrics = (Metric("accuracy", "", "higher", "accuracy, held out"), LOSS)

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.criterion = spec, spec.loss.build()

    def collate(self, rows: Sequence[Any]) -> Batch | BagOfWords:
        """`Examples` to one batch. Raises DataError for other rows, or rows without a class."""
        if not isinstance(rows, Examples):
            raise DataError(f"classification: rows are {type(rows).__name__}; give Examples (data/examples.py)")
        if len(rows) and int(rows.classes.min()) < 0:
            raise DataError("classification: a row has no class, so there is nothing to learn from it")
        return batch_of(rows, self.spec.form)

    def loss(self, model: Any, batch: Batch | BagOfWords) -> LossSum:
        """The summed loss, the rows, and how many of them have their highest score in the right place."""
        scores = model(batch)
        classes = batch.targets
        if classes is None:
            raise DataError("classification: the batch has no targets")
        total = self.criterion.of_classes(scores, classes).sum()
        if self.spec.l2:
            squares = torch.stack([p.square().sum() for p in penalised(model)]).sum()
            total = total + 0.5 * self.spec.l2 * len(classes) * squares
        return total, len(classes), {"accuracy": (chosen(scores) == classes).sum()}

    @torch.no_grad()
    def evaluate(self, model: Any, rows: Any) -> dict[str, ItemSums]:
        """An example is an item: whether its class has the highest score, and its loss without the penalty."""
        right: list[float] = []
        losses: list[float] = []
        device = device_of(model)
        with evaluating(model):
            for at in range(0, len(rows), ROWS):
                batch = self.collate(rows[at : at + ROWS]).to(device)
                scores, classes = model(batch), batch.targets
                assert classes is not None  # `collate` refuses rows without a class
                right += (chosen(scores) == classes).double().tolist()
                losses += self.criterion.of_classes(scores, classes).double().tolist()
        return {"accuracy": ItemSums(right, [1.0] * len(right)), LOSS.name: ItemSums(losses, [1.0] * len(losses))}


def chosen(scores: Tensor) -> Tensor:
    """(B,) the class of the highest score; of one score (B, 1), 1 where it is positive."""
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)


def penalised(model: Any) -> list[Tensor]:
    """What the penalty covers: the model's own list, or its matrices."""
    own = getattr(model, "penalised", None)
    return list(own) if own is not None else [p for p in model.parameters() if p.ndim > 1]
