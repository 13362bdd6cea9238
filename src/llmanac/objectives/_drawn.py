"""Rows of which a part is drawn to be predicted: masked tokens, spans, a prefix.

What is drawn for a row of a stream depends on the seed, the epoch and the row's number alone, so every epoch draws anew
("dynamic" masking), a resumed run draws what it would have drawn, and no generator has a state. What is drawn for any
other row (a held-out one) depends on its tokens, so it is the same at every measurement.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.rng import numpy_generator
from llmanac.data.pack import PADDING, PackedRow, PackedStream
from llmanac.objectives._base import BaseObjective


class Keyed(NamedTuple):
    """A row and what names its draw."""

    row: PackedRow
    key: tuple[int, int]


class KeyedStream(PackedStream):
    """Packed rows with their epoch and number."""

    def row(self, number: int) -> Any:
        return Keyed(super().row(number), (self.epoch, number))


@dataclass(frozen=True)
class DocumentPiece:
    """The tokens of one document in a row.

    Attributes:
        ids: (n,) int64; loss: (n,) bool whether a token may be predicted.
        answer: the first place that carries loss, where some do not and all from there on do; else None.
    """

    ids: np.ndarray
    loss: np.ndarray

    @property
    def answer(self) -> int | None:
        first = int(self.loss.argmax())
        return first if first > 0 and bool(self.loss[first:].all()) else None


class Drawn(BaseObjective):
    """Base of the objectives that draw."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def source(self, text: Any, *, length: int, rows: int, seed: int) -> Any:
        """Packed rows of `length` + 1 tokens that are drawn anew each epoch."""
        self.seed = seed
        return KeyedStream(text.dataset, length=length, rows=rows, seed=seed)

    def opened(self, row: Any) -> tuple[PackedRow, np.random.Generator]:
        """A row of a stream, a packed row, token ids or `(ids, loss mask)`, and the generator of its draw."""
        if isinstance(row, Keyed):
            return row.row, numpy_generator(self.seed, "drawn", *row.key)
        if not isinstance(row, PackedRow):
            ids, loss = row if isinstance(row, tuple) else (row, None)
            ids = np.asarray(ids, np.int64)
            if ids.ndim != 1 or len(ids) < 2:
                raise DataError(f"a row of at least two token ids was expected, got shape {ids.shape}")
            row = PackedRow(ids, np.zeros(len(ids), np.int32), np.arange(len(ids), dtype=np.int32), loss)
        return row, numpy_generator(self.seed, "drawn", zlib.crc32(row.ids[row.segments != PADDING].tobytes()))

    def pieces(self, rows: Sequence[Any]) -> list[tuple[DocumentPiece, np.random.Generator]]:
        """Every document of every row that has at least two tokens and a token to predict after its first."""
        out = []
        for number, given in enumerate(rows):
            row, generator = self.opened(given)
            loss = np.ones(len(row.ids), np.bool_) if row.loss is None else np.asarray(row.loss, np.bool_)
            edges = np.flatnonzero(np.diff(row.segments)) + 1
            found = [
                DocumentPiece(row.ids[part], loss[part])
                for part in np.split(np.arange(len(row.ids)), edges)
                if row.segments[part[0]] != PADDING and len(part) > 1 and loss[part][1:].any()
            ]
            if not found:
                raise DataError(f"row {number}: has no document with two tokens, the second of which may be predicted")
            out += [(piece, generator) for piece in found]
        return out


def special_id(tokenizer: Any, objective: str, *names: str) -> int:
    """The id of the first of these special tokens that the tokenizer has. Raises SpecError where it has none."""
    if tokenizer is None:
        raise SpecError(f"objective: {objective} needs a tokenizer")
    known = tokenizer.special_tokens
    for name in names:
        if name in known:
            return int(known[name])
    raise SpecError(
        f"objective: {objective} needs the special token {names[0]!r}{nearest(names[0], known)}; train the tokenizer "
        f"with it: -s tokenizer.special_tokens=[..., {names[0]!r}]"
    )


def poisson_spans(count: int, budget: int, mean: float, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Spans `[start, stop)` of Poisson lengths (at least 1) that cover `budget` of `count` places and do not touch.

    Lengths are drawn until they cover the budget (the last one is cut to fit); the spans are then put into the
    places in a random order with random gaps, each gap between two of them at least one place.
    """
    lengths: list[int] = []
    while (left := budget - sum(lengths)) > 0:
        drawn = max(1, int(generator.poisson(mean)))
        lengths.append(min(drawn, left))
    while sum(lengths) + len(lengths) - 1 > count:  # no room for the gaps: fewer spans
        lengths.pop()
    free = count - sum(lengths) - (len(lengths) - 1)
    cuts = np.sort(generator.integers(0, free + 1, len(lengths)))
    starts, used = [], 0
    for number, (cut, length) in enumerate(zip(cuts.tolist(), lengths, strict=True)):
        starts.append((cut + used + number, cut + used + number + length))
        used += length
    return starts
