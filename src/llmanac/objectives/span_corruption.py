"""Span corruption: an encoder reads a text with holes, a decoder writes what was in them.

    source   Thank you <0> me to your party <1> week .
    target   <0> for inviting <1> last <2>

`rate` of the tokens are cut out in spans of `mean` tokens on average; a sentinel takes the place of each. The target
has every sentinel followed by its span, and one more sentinel as the end. It is short: with 15% and spans of 3 about a
fifth of the text, which is what makes a step cheap.

Shapes: a document of T tokens in k spans of m tokens -> source (1, T - m + k), ids and targets (1, m + k + 1).

Paper: Raffel et al. 2020 (https://arxiv.org/abs/1910.10683), section 3.1.4, and the span lengths of its code: the
numbers of hidden and of kept tokens are each cut into k random parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from llmanac.core.ranges import COUNT, INSIDE, within
from llmanac.core.types import Batch
from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._drawn import special_id
from llmanac.objectives.prefix import Sequential

CARD = {
    "title": "Span corruption",
    "paper": "https://arxiv.org/abs/1910.10683",
    "reference": "T5ForConditionalGeneration in transformers: loss and gradient",
    "test": "tests/references/test_drawn_objectives.py::test_span_corruption_loss_equals_t5s",
}

SENTINELS = 100


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """rate: how many of the tokens are cut out; mean: tokens of a span."""

    special_tokens: ClassVar[tuple[str, ...]] = tuple(f"<extra_id_{n}>" for n in range(SENTINELS))
    gives_source: ClassVar[bool] = True

    rate: float = 0.15
    mean: float = 3.0

    ranges = within(INSIDE, "rate") | within(COUNT, "mean")

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> SpanCorruption:
        """The objective. Raises SpecError where the tokenizer has no sentinels."""
        return SpanCorruption(self, tokenizer)


class SpanCorruption(Sequential):
    """The objective; see the module's example."""

    def __init__(self, spec: Spec, tokenizer: Any) -> None:
        super().__init__()
        self.spec = spec
        self.sentinels = [special_id(tokenizer, "span-corruption", name) for name in Spec.special_tokens]

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Rows of a stream, packed rows or token ids -> sources with holes and what fills them.

        Raises:
            DataError: a row without two tokens of one document.
        """
        sources, targets = [], []
        for piece, generator in self.pieces(rows):
            holes = self.holes(len(piece.ids), generator)
            source, target = self.cut(piece.ids, holes)
            sources.append(source)
            targets.append(target)
        ids = [np.concatenate([[0], target[:-1]]) for target in targets]  # the model's start token goes first
        return replace(Batch.padded(ids, targets), source=Batch.padded(sources))

    def holes(self, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Spans `[start, stop)` of `count` places; the text begins with a token that stays."""
        hidden = min(max(1, round(count * self.spec.rate)), count - 1)
        spans = max(1, round(hidden / self.spec.mean))
        spans = min(spans, hidden, count - hidden, SENTINELS - 1)

        def parts(total: int) -> np.ndarray:
            cuts = np.sort(generator.choice(np.arange(1, total), spans - 1, replace=False))
            return np.diff(np.concatenate([[0], cuts, [total]]))

        out, at = [], 0
        for kept, gone in zip(parts(count - hidden).tolist(), parts(hidden).tolist(), strict=True):
            out.append((at + kept, at + kept + gone))
            at += kept + gone
        return out

    def cut(self, ids: np.ndarray, holes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """`(source, target)` of these holes."""
        source: list[int] = []
        target: list[int] = []
        at = 0
        for sentinel, (start, stop) in zip(self.sentinels, holes, strict=False):
            source += [*ids[at:start].tolist(), sentinel]
            target += [sentinel, *ids[start:stop].tolist()]
            at = stop
        source += ids[at:].tolist()
        return np.array(source, np.int64), np.array([*target, self.sentinels[len(holes)]], np.int64)
