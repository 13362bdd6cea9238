"""Labelled examples in memory: token lists of any length with a class each, and a resumable stream over them.

All token ids are in one array, one list after the other, so that a batch of thousands of short rows costs a few array
operations and no loop in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.core.types import BagOfWords, Batch
from llmanac.data.pack import Shuffled

Form = Literal["bag", "padded"]


class Examples(Sequence[Any]):
    """N token lists and their classes.

    Attributes:
        ids: (total,) int64, all lists one after the other.
        starts: (N + 1,) int64, where each list begins, and where the last one ends.
        classes: (N,) int64; -1 where the class is not known.
        lengths: (N,) int64, tokens of each list.
    """

    def __init__(self, ids: np.ndarray, starts: np.ndarray, classes: np.ndarray) -> None:
        self.ids, self.starts, self.classes = ids, starts, classes
        self.lengths = np.diff(starts)
        if len(starts) != len(classes) + 1 or int(starts[-1]) != len(ids):
            raise DataError(f"examples: {len(starts) - 1} token lists, {len(classes)} classes")

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | np.ndarray], classes: Sequence[int] | np.ndarray | None) -> Examples:
        """From token lists; without classes all are -1."""
        starts = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(one) for one in lists], out=starts[1:])
        parts = [np.asarray(one, np.int64) for one in lists]
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        known = np.full(len(lists), -1, np.int64) if classes is None else np.asarray(classes, np.int64)
        return cls(ids, starts, known)

    def __len__(self) -> int:
        return len(self.classes)

    @overload
    def __getitem__(self, which: int) -> Examples: ...
    @overload
    def __getitem__(self, which: slice) -> Examples: ...
    def __getitem__(self, which: int | slice) -> Examples:
        if isinstance(which, slice) and which.step in (None, 1):
            first, stop, _ = which.indices(len(self))
            starts = self.starts[first : max(first, stop) + 1]
            ids = self.ids[starts[0] : starts[-1]]
            return Examples(ids, starts - starts[0], self.classes[first : max(first, stop)])
        return self.pick(np.atleast_1d(np.arange(len(self))[which]))

    def pick(self, numbers: np.ndarray) -> Examples:
        """The examples of these numbers, in their order."""
        lengths = self.lengths[numbers]
        starts = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        places = np.arange(starts[-1]) + np.repeat(self.starts[:-1][numbers] - starts[:-1], lengths)
        return Examples(self.ids[places], starts, self.classes[numbers])


class ExampleStream(Shuffled):
    """Batches of examples, in a new order each epoch; goes on into the next epoch inside a batch.

    Args:
        rows: examples of one step; no more than there are.
    """

    def __init__(self, examples: Examples, *, rows: int, seed: int = 0, name: str = "examples") -> None:
        super().__init__(rows=rows, seed=seed, name=name)
        if not len(examples):
            raise DataError(f"{name}: there are no examples to draw from")
        if rows > len(examples):
            raise SpecError(f"rows: a batch of {rows}, but there are only {len(examples)} examples")
        self.examples = examples

    def identity(self) -> str:
        """What decides the order."""
        return f"{len(self.examples)} examples/{self.seed}/{self.name}"

    def take(self, count: int) -> Any:
        """The next `count` examples, as one `Examples`."""
        numbers: list[np.ndarray] = []
        while count:
            if self._ready != self.epoch:
                generator = numpy_generator(self.seed, self.name, "rows", self.epoch)
                self._order = generator.permutation(len(self.examples))
                self._ready = self.epoch
            part = self._order[self.taken : self.taken + count]
            numbers.append(part)
            self.taken, count = self.taken + len(part), count - len(part)
            if self.taken == len(self._order):
                self.epoch, self.taken = self.epoch + 1, 0
        return self.examples.pick(np.concatenate(numbers))


def batch_of(examples: Examples, form: Form) -> Batch | BagOfWords:
    """Examples as a model reads them, targets the classes (B,).

    As a `bag` they are `BagOfWords`; `padded` a `Batch` with ids (B, T), zeros after each list's end, and lengths (B,).
    """
    import torch

    classes, lengths = torch.from_numpy(examples.classes), torch.from_numpy(examples.lengths)
    if form == "bag":
        return BagOfWords(ids=torch.from_numpy(examples.ids), lengths=lengths, targets=classes)
    longest = max(1, int(examples.lengths.max(initial=1)))
    ids = np.zeros((len(examples), longest), np.int64)
    ids[np.arange(longest)[None] < examples.lengths[:, None]] = examples.ids
    return Batch(ids=torch.from_numpy(ids), targets=classes, lengths=lengths)
