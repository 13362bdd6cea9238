"""GLM: fill in blanks from left to right, with the text around them seen from both sides.

    Part A   x1 x2 [M] x4 [M]                     the text with blanks, which sees itself
    Part B   [S] x5 x6 [S] x3                     the spans in a random order; each token sees A and what is before it
    target       x5 x6 [E]    x3 [E]

    loss = - sum over spans s in their order, t in s of log p(s_t | A, the spans before, s_1 ... s_{t-1})

One mask does the work of three: short blanks make a masked model whose hidden tokens depend on each other, one long
blank at the end a prefix model, one blank over everything an autoregressive one. A token of B has two positions, that
of its blank and its place within it (`position = learned-2d`); a model with other positions counts through A and B.

    spans = "short"   `rate` of the tokens, Poisson lengths of `mean`
    spans = "long"    one span at the end, half of the tokens or more

Shapes: T tokens in k spans of m tokens -> ids, targets, positions, within (1, T + 2 k), prefix (1,) = T - m + k.

Paper: Du et al. 2022 (https://arxiv.org/abs/2103.10360), sections 2.1 and 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from llmanac.core.ranges import COUNT, SOME, within
from llmanac.core.types import IGNORE, Batch, LossSum, capabilities
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._drawn import poisson_spans, special_id
from llmanac.objectives.prefix import Sequential

CARD = {
    "title": "Autoregressive blank filling (GLM)",
    "paper": "https://arxiv.org/abs/2103.10360",
    "reference": "LlamaForCausalLM of transformers on the same tokens with the same mask: loss and gradient",
    "aliases": {"glm-long": {"spans": "long"}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """spans: short or long; rate, mean: of the short ones: how many of the tokens, and tokens of a span."""

    special_tokens: ClassVar[tuple[str, ...]] = ("<|mask|>", "<|sop|>", "<|eop|>")

    spans: Literal["short", "long"] = "short"
    rate: float = 0.15
    mean: float = 3.0

    ranges = within(SOME, "rate") | within(COUNT, "mean")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> GLM:
        """The objective. Raises SpecError where the tokenizer lacks a special token."""
        return GLM(self, tokenizer)


class GLM(Sequential):
    """The objective; see the module's formula."""

    def __init__(self, spec: Spec, tokenizer: Any) -> None:
        super().__init__()
        self.spec = spec
        self.mask = special_id(tokenizer, "glm", "<|mask|>", "[MASK]", "[gMASK]", "<mask>")
        self.start, self.end = special_id(tokenizer, "glm", "<|sop|>"), special_id(tokenizer, "glm", "<|eop|>")

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows of a stream, packed rows or token ids -> texts with blanks and what fills them, one document a row.

        Raises:
            DataError: a row without two tokens of one document.
        """
        made = []
        for piece, generator in self.pieces(rows):
            spans = self.spans(len(piece.ids), generator)
            made.append(self.fill(piece.ids, [spans[i] for i in generator.permutation(len(spans))]))
        ids, targets, positions, within, prefix = zip(*made, strict=True)
        placed = [Batch.padded(values).ids for values in (positions, within)]
        batch = Batch.padded(ids, targets)
        return replace(batch, positions=placed[0], within=placed[1], mask="prefix", prefix=torch.tensor(list(prefix)))

    def spans(self, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Spans `[start, stop)` of `count` places."""
        if self.spec.spans == "long":
            return [(count - int(generator.integers(-(-count // 2), count + 1)), count)]
        return poisson_spans(count, max(1, round(self.spec.rate * count)), self.spec.mean, generator)

    def fill(
        self, tokens: np.ndarray, spans: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
        """`(ids, targets, positions, within, length of A)` of these spans, written in this order."""
        kept = np.ones(len(tokens), np.bool_)
        text = tokens.copy()
        for start, stop in spans:
            text[start] = self.mask
            kept[start + 1 : stop] = False
        place = np.cumsum(kept) - 1  # of what stays, in A
        ids, targets = [text[kept]], [np.full(int(kept.sum()), IGNORE, np.int64)]
        positions, within = [np.arange(int(kept.sum()))], [np.zeros(int(kept.sum()), np.int64)]
        for start, stop in spans:
            ids.append(np.concatenate([[self.start], tokens[start:stop]]))
            targets.append(np.concatenate([tokens[start:stop], [self.end]]))
            positions.append(np.full(stop - start + 1, place[start], np.int64))
            within.append(np.arange(1, stop - start + 2))
        a, b, c, d = (np.concatenate(values) for values in (ids, targets, positions, within))
        return a, b, c, d, int(kept.sum())

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The sum over what is written, the ends of spans included."""
        if not capabilities(model).places_within:
            batch = replace(batch, positions=None, within=None)
        return super().loss(model, batch)
