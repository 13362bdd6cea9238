"""Prefix language modelling: read a prefix from both sides, then predict the rest from left to right.

    loss = - sum over t > k of log p(x_t | x_1 ... x_k both ways, x_{k+1} ... x_{t-1})

One model does both halves: with form = "mask" the tokens of the prefix see one another and the others see the past;
with form = "source" an encoder reads the prefix and a decoder writes the rest (T5). The prefix carries no loss. Its
length k is drawn between 1 and T - 1; where a row's loss mask marks an answer, the prefix is all that comes before it.
(PaLM, which is sometimes named as an example, is causal.)

Shapes: a document of T tokens -> ids, targets (1, T - 1), prefix (1,). Documents of a packed row become rows.

Papers: Raffel et al. 2020 (https://arxiv.org/abs/1910.10683), sections 3.2.1 and 3.2.3; Dong et al. 2019
(https://arxiv.org/abs/1905.03197).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from llmanac.core.errors import RequestError
from llmanac.core.types import IGNORE, Batch, LossSum, capabilities
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import NextToken
from llmanac.objectives._drawn import Drawn
from llmanac.objectives._measured import LOSS

CARD = {
    "title": "Prefix language modelling",
    "paper": "https://arxiv.org/abs/1910.10683",
    "reference": "PaliGemma's prefix mask and T5ForConditionalGeneration in transformers: loss and gradient",
    "aliases": {"prefix-source": {"form": "source"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """form: whether the prefix is a part of the row, with its own mask, or the source of an encoder."""

    form: Literal["mask", "source"] = "mask"

    @property
    def gives_source(self) -> bool:  # type: ignore[override]
        return self.form == "source"

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> PrefixObjective:
        """The objective; a tokenizer says what stands around a source."""
        return PrefixObjective(self, tokenizer)


class Sequential(Drawn):
    """Base of the objectives whose drawn part is written from left to right."""

    metrics = (LOSS,)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The sum over the written tokens, and the layers' own losses once a unit."""
        if batch.source is not None:
            start = capabilities(model).start_id
            if start is None:
                raise RequestError(
                    "objective: its prefix is a source; the model needs an encoder (form = mask does not)"
                )
            assert batch.ids is not None
            batch = replace(batch, ids=torch.cat([torch.full_like(batch.ids[:, :1], start), batch.ids[:, 1:]], 1))
        return NextToken.sums(self, model, batch)  # type: ignore[arg-type]


class PrefixObjective(Sequential):
    """The objective; see the module's formula."""

    def __init__(self, spec: Spec, tokenizer: Any = None) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows of a stream, packed rows, token ids or `(ids, loss mask)` -> a batch with prefixes.

        Raises:
            DataError: a row without two tokens of one document.
        """
        cut = []
        for piece, generator in self.pieces(rows):
            drawn = int(generator.integers(1, len(piece.ids)))
            cut.append((piece, piece.answer or drawn))
        if self.spec.form == "source":
            targets = [np.where(piece.loss[k:], piece.ids[k:], IGNORE) for piece, k in cut]
            ids = [np.concatenate([[0], piece.ids[k:-1]]) for piece, k in cut]  # the model's start token goes first
            return replace(Batch.padded(ids, targets), source=Batch.padded([self._source(p.ids[:k]) for p, k in cut]))
        targets = [
            np.where(piece.loss[1:] & (np.arange(1, len(piece.ids)) >= k), piece.ids[1:], IGNORE) for piece, k in cut
        ]
        batch = Batch.padded([piece.ids[:-1] for piece, _ in cut], targets)
        return replace(batch, mask="prefix", prefix=torch.tensor([k for _, k in cut]))

    def _source(self, ids: np.ndarray) -> Any:
        """What the encoder reads, as it will when it is asked to write."""
        return ids if self.tokenizer is None else self.tokenizer.template.apply(ids.tolist())[0]
