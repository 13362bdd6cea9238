"""What preference objectives have in common: rows of answers, their log-probabilities, and the reference's."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmanac.adapters import applied
from llmanac.core.errors import DataError, SpecError
from llmanac.core.types import IGNORE, Batch, Want
from llmanac.generate.engine import evaluating
from llmanac.objectives._base import BaseObjective, collate_ragged
from llmanac.objectives.instruction import Instruction
from llmanac.objectives.instruction import Spec as InstructionSpec

Encoded = tuple[np.ndarray, np.ndarray]
EACH = Want(nll="none")


class Preference(BaseObjective):
    """Base of preference objectives.

    A row is a mapping with a prompt and answers, texts or lists of messages. A batch holds an answer a row: all first
    answers (chosen), then all second ones (rejected). What carries loss is the answer with its end.

    Attributes:
        needs_reference: whether the loss compares with where the training started.
        columns: the answers of a row, in the order of the batch.
    """

    needs_reference = True
    columns: tuple[str, ...] = ("chosen", "rejected")

    def __init__(self, spec: Any, tokenizer: Any, models: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(models)
        if tokenizer is None:
            raise SpecError(f"objective: {spec.name} needs a tokenizer")
        self.spec, self.tokenizer = spec, tokenizer
        self.rows = Instruction(InstructionSpec(on="completion"), tokenizer)

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows, or what `encode` made of them, to one batch. Raises DataError for a row without its columns."""
        encoded = [row if isinstance(row, tuple) else self.encode(row) for row in rows]
        return collate_ragged([answers[n] for n in range(len(self.columns)) for answers in encoded])

    def encode(self, row: Mapping[str, Any]) -> tuple[Encoded, ...]:
        """`(ids, loss mask)` of each answer, after the prompt that they share.

        Raises:
            DataError: columns that are missing, or an answer without a token.
        """
        return next(self.encode_all([row]))

    def encode_all(self, rows: Sequence[Any]) -> Iterator[tuple[Encoded, ...]]:
        """`encode` of each row, with all their conversations rendered together."""
        every = [pair for row in rows for pair in self.completions(row)]
        encoded: Iterator[Any] = iter(self.rows.encode_all(every))
        for _ in rows:
            yield tuple(itertools.islice(encoded, len(self.columns)))

    def completions(self, row: Any) -> list[dict[str, Any]]:
        """The row's answers as rows of instruction tuning. A row without `prompt` has it as its answers' start."""
        if not isinstance(row, Mapping) or any(name not in row for name in self.columns):
            has = ", ".join(sorted(map(str, row))) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(f"needs the columns prompt, {', '.join(self.columns)} (has: {has})")
        answers = [row[name] for name in self.columns]
        if len(answers) > 1 and all(answer == answers[0] for answer in answers):
            raise DataError(f"{' and '.join(self.columns)} are the same: {str(answers[0])[:60]!r}")
        if "prompt" in row:
            return [{"prompt": row["prompt"], "completion": answer} for answer in answers]
        if not all(isinstance(answer, (list, tuple)) and len(answer) > 1 for answer in answers):
            raise DataError("without `prompt`, each answer must be a conversation: a list of messages")
        shared = 0
        while shared < min(map(len, answers)) - 1 and all(a[shared] == answers[0][shared] for a in answers):
            shared += 1
        return [{"prompt": list(a[:shared]), "completion": list(a[shared:])} for a in answers]

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
