"""What preference objectives have in common: rows of answers, their log-probabilities, and the reference's."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmanac.adapters import applied
from llmanac.core.errors import SpecError
from llmanac.core.types import IGNORE, Batch, OutputRequest, evaluating
from llmanac.objectives._base import AnswerRows, BaseObjective, ObjectiveSpec, collate_ragged

EACH = OutputRequest(nll="none")


@dataclass(frozen=True, kw_only=True)
class PreferenceSpec(ObjectiveSpec):
    """Base of their Specs.

    Attributes:
        needs_reference: whether the loss compares with where the training started.
        columns: the answers of a row, in the order of a batch.
    """

    needs_reference: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def reader(self, tokenizer: Any) -> AnswerRows:
        """What reads rows for it."""
        if tokenizer is None:
            raise SpecError(f"objective: {self.name} needs a tokenizer")
        return AnswerRows(tokenizer, self.columns)


class Preference(BaseObjective):
    """Base of preference objectives. A batch holds an answer a row: all first answers (chosen), then all second ones
    (rejected). What carries loss is the answer with its end. Losses are of complete rows, each on one rank.

    Args:
        reader: what read the rows, where that is there already.
    """

    axes = ("data", "tensor")

    def __init__(
        self, spec: Any, tokenizer: Any, models: Mapping[str, nn.Module] | None = None, reader: AnswerRows | None = None
    ) -> None:
        super().__init__(models)
        self.spec, self.reader = spec, reader or spec.reader(tokenizer)
        self.encode, self.encode_all = self.reader.encode, self.reader.encode_all

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows, or what the reader made of them, to one batch. Raises DataError for a row without its columns."""
        encoded = self.read(rows)
        return collate_ragged([answers[n] for n in range(len(self.spec.columns)) for answers in encoded])

    def read(self, rows: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows encoded, those that are not yet."""
        return [row if isinstance(row, tuple) else self.encode(row) for row in rows]

    def log_probabilities(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums (rows,) of the answers' log-probabilities in nats, and their tokens (rows,)."""
        assert batch.targets is not None
        output = (model if isinstance(model, nn.Module) else model.forward)(batch, want=EACH)
        return -output.nll.sum(1), (batch.targets != IGNORE).sum(1)

    def reference(self, model: Any, batch: Batch) -> Tensor:
        """The same sums of the reference: a frozen model, or the model with its adapters disabled.

        Raises:
            SpecError: neither is there.
        """
        frozen = self.models.get("reference")
        changes = [] if frozen is not None else applied(model)
        if frozen is None and not changes:
            raise SpecError(
                "objective: needs a reference to compare with; train an adapter, which is disabled for it, or give "
                "models={'reference': a copy of the model}"
            )
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for change in changes:
                stack.enter_context(change.disabled())
            stack.enter_context(evaluating(model))  # without dropout
            return self.log_probabilities(model if frozen is None else frozen, batch)[0]

    def halves(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values of a batch's rows: of the chosen answers, and of the rejected ones."""
        chosen, rejected = values.chunk(2)
        return chosen, rejected


def compared(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Sums over pairs of implicit rewards: of each side, their margin, and how often the chosen one is higher. Equal
    ones count a half: with a reference, all are equal before training."""
    chosen, rejected = chosen.detach(), rejected.detach()
    return {
        "reward_chosen": chosen.sum(), "reward_rejected": rejected.sum(), "margin": (chosen - rejected).sum(),
        "accuracy": ((chosen - rejected).sign() + 1).sum() / 2,
    }  # fmt: skip
