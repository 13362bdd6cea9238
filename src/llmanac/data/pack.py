"""From token data sets to rows of one length: packed, shuffled, mixed, and resumable at any row.

A row has `length` + 1 tokens, so that `length` of them are inputs and each has its next token as a target. Several
documents share a row; `segments` tells them apart and `positions` counts from each one's first token in the row.

A stream's state is two numbers (epoch, rows taken): the order of an epoch is drawn from a generator named after
(seed, epoch), never from one that has been running, so a stream resumes exactly and in no time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.data.schedule import Schedule
from llmanac.data.tokens import TokenDataset

if TYPE_CHECKING:
    from torch import Tensor

    from llmanac.core.types import SourceState

PADDING = -1  # the segment of a place that holds no token
Packing = Literal["cut", "whole"]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One packed row of n = length + 1 places.

    Attributes:
        ids: (n,) int64 tokens, 0 in padding.
        segments: (n,) int32 which document of the row each token is from, `PADDING` where there is none.
        positions: (n,) int32 place of each token in its document's part of this row.
        loss: (n,) bool whether a token carries loss as a target; None where all do.
    """

    ids: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    loss: np.ndarray | None = None


class RowSource(Protocol):
    """A resumable stream that can give any number of rows."""

    def take(self, count: int) -> list[Any]: ...
    def state(self) -> SourceState: ...
    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None: ...


class Shuffled:
    """Rows in a new order each epoch. A subclass says how many an epoch has, and makes one from its number."""

    def __init__(self, *, rows: int, seed: int, name: str) -> None:
        if rows < 1:
            raise SpecError(f"rows: {rows} is not at least 1")
        self.rows, self.seed, self.name = rows, seed, name
        self.epoch, self.taken = 0, 0
        self._ready = -1  # the epoch that _order belongs to
        self._order = np.zeros(0, np.int64)

    def plan(self, epoch: int) -> int:
        """Prepare an epoch and return how many rows it has."""
        raise NotImplementedError

    def row(self, number: int) -> Any:
        """The row of this number in the epoch planned last."""
        raise NotImplementedError

    def identity(self) -> str:
        """What a state must belong to."""
        raise NotImplementedError

    def take(self, count: int) -> list[Any]:
        """The next `count` rows; goes on into the next epoch by itself."""
        out: list[Any] = []
        while len(out) < count:
            if self._ready != self.epoch:
                size = self.plan(self.epoch)
                self._order = numpy_generator(self.seed, self.name, "rows", self.epoch).permutation(size)
                self._ready = self.epoch
            if self.taken == len(self._order):
                self.epoch, self.taken = self.epoch + 1, 0
                continue
            out.append(self.row(int(self._order[self.taken])))
            self.taken += 1
        return out

    def __iter__(self) -> Shuffled:
        return self

    def __next__(self) -> list[Any]:
        """The rows of one optimizer step."""
        return self.take(self.rows)

    def state(self) -> SourceState:
        """The stream's place, as JSON; no tensors."""
        return {"epoch": self.epoch, "taken": self.taken, "of": self.identity()}, {}

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a state. Raises DataError when it belongs to other data, another length or another seed."""
        if state.get("of") != self.identity():
            raise DataError(
                f"the state of the data belongs to {state.get('of')!r}, this stream is {self.identity()!r}; "
                "resume with the same data, row length and seed, or start a new run"
            )
        self.epoch, self.taken = int(state["epoch"]), int(state["taken"])


class PackedStream(Shuffled):
    """Packed rows of a token data set, `rows` at a time.

    Packing `cut` joins the documents of an epoch in a random order and cuts the run every `length` tokens: nothing is
    lost and only an epoch's last row has padding. `whole` never cuts a document that fits a row (best-fit decreasing;
    longer ones lose what is past the row, which `truncated` counts): this is what examples with prompts need.

    Raises:
        SpecError: a length below 1 or an unknown packing.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        length: int,
        rows: int = 1,
        seed: int = 0,
        packing: Packing = "cut",
        name: str = "data",
    ) -> None:
        super().__init__(rows=rows, seed=seed, name=name)
        if length < 1:
            raise SpecError(f"length: {length} is not at least 1 token")
        if packing not in ("cut", "whole"):
            raise SpecError(f"packing: {packing!r} is not one of 'cut', 'whole'")
        self.dataset, self.length, self.packing = dataset, length, packing
        sizes = np.diff(dataset.offsets)
        self.truncated = int((sizes > length + 1).sum()) if packing == "whole" else 0
        self._documents = np.zeros(0, np.int64)
        self._ends = np.zeros(0, np.int64)
        self._bins: list[list[int]] = []

    def identity(self) -> str:
        """The data set's hash, and all that decides the rows."""
        return f"{self.dataset.hash[:16]}/{self.packing}/{self.length}/{self.seed}/{self.name}"

    def plan(self, epoch: int) -> int:
        """Order the documents of an epoch; returns its number of rows."""
        generator = numpy_generator(self.seed, self.name, "documents", epoch)
        self._documents = generator.permutation(self.dataset.documents)
        sizes = np.diff(self.dataset.offsets)[self._documents]
        if self.packing == "whole":
            self._bins = best_fit(np.minimum(sizes, self.length + 1), self.length + 1)
            return len(self._bins)
        self._ends = np.cumsum(sizes)
        return max(1, -(-(int(self._ends[-1]) - 1) // self.length))

    def row(self, number: int) -> PackedRow:
        """Row `number` of the planned epoch."""
        pieces = self._whole(number) if self.packing == "whole" else self._cut(number)
        places = self.length + 1
        ids, segments = np.zeros(places, np.int64), np.full(places, PADDING, np.int32)
        positions, loss = np.zeros(places, np.int32), np.zeros(places, np.bool_)
        at = 0
        for segment, (start, count) in enumerate(pieces):
            here = slice(at, at + count)
            ids[here], segments[here] = self.dataset.read(start, count), segment
            positions[here], loss[here] = np.arange(count), self.dataset.read_loss(start, count)
            at += count
        return PackedRow(ids, segments, positions, loss if self.dataset.has_loss_mask or at < places else None)

    def _cut(self, number: int) -> list[tuple[int, int]]:
        at, stop = number * self.length, min((number + 1) * self.length + 1, int(self._ends[-1]))
        place, pieces = int(np.searchsorted(self._ends, at, side="right")), []
        while at < stop:
            document, end = int(self._documents[place]), int(self._ends[place])
            count = min(stop, end) - at
            pieces.append((int(self.dataset.offsets[document + 1]) - (end - at), count))
            at, place = at + count, place + 1
        return pieces

    def _whole(self, number: int) -> list[tuple[int, int]]:
        out = []
        for place in self._bins[number]:
            document = int(self._documents[place])
            start, stop = int(self.dataset.offsets[document]), int(self.dataset.offsets[document + 1])
            out.append((start, min(stop - start, self.length + 1)))
        return out


def digest(items: Any) -> str:
    """A hash of what rows hold: arrays, numbers, texts, and lists, mappings and dataclasses of them."""
    total = hashlib.sha256()
    for part in _parts(items):
        total.update(part)
        total.update(b"\0")
    return total.hexdigest()


def _parts(item: Any) -> Iterator[bytes]:
    if isinstance(item, np.ndarray) and item.dtype != object:
        yield f"{item.dtype.str}{item.shape}".encode()
        yield np.ascontiguousarray(item).tobytes()
    elif is_dataclass(item) and not isinstance(item, type):
        yield from _parts({field.name: getattr(item, field.name) for field in fields(item)})
    elif isinstance(item, Mapping):
        yield from _parts(sorted(((str(key), value) for key, value in item.items()), key=lambda pair: pair[0]))
    elif isinstance(item, (list, tuple, np.ndarray)):
        yield f"{len(item)}".encode()
        for one in item:
            yield from _parts(one)
    elif item is None or isinstance(item, (str, bytes, bool, int, float, complex, np.generic)):
        yield repr(item).encode("utf-8", "surrogatepass")
    else:  # what an object shows of itself may be its address
        yield type(item).__name__.encode()


class ListStream(Shuffled):
    """Items of a list in memory (preference pairs, prompts, conversations), in a new order each epoch."""

    def __init__(self, items: Sequence[Any], *, rows: int = 1, seed: int = 0, name: str = "items") -> None:
        super().__init__(rows=rows, seed=seed, name=name)
        if not items:
            raise DataError(f"{name}: there are no items to draw from")
        self.items = items

    @cached_property
    def digest(self) -> str:
        """Of the items; computed once."""
        return digest(self.items)

    def identity(self) -> str:
        """The number of items, their hash, and what decides their order."""
        return f"{len(self.items)} items/{self.digest[:16]}/{self.seed}/{self.name}"

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """See `Shuffled`. A state of an earlier version has no hash of the items."""
        if state.get("of") == f"{len(self.items)} items/{self.seed}/{self.name}":
            state = {**state, "of": self.identity()}
        super().restore(state, tensors)

    def plan(self, epoch: int) -> int:
        """Every item once."""
        return len(self.items)

    def row(self, number: int) -> Any:
        """The item itself."""
        return self.items[number]


class MixedRows:
    """Rows of several streams in proportion to weights; resumable like its parts.

    Args:
        streams: the parts by name; each has `take`.
        weights: how large a fraction of the rows each part is; any positive scale.
        seed: of random draws.
        draws: "random" draws each row's part independently: after n rows a part of probability p is off by about
            sqrt(n p (1 - p)) rows. "exact" follows `data/schedule.py`: no part is ever off by more than one row.

    Raises:
        SpecError: weights that are not positive, or that name other parts than `streams`.
    """

    def __init__(
        self,
        streams: Mapping[str, RowSource],
        weights: Mapping[str, float | Fraction],
        *,
        rows: int = 1,
        seed: int = 0,
        draws: Literal["random", "exact"] = "random",
    ) -> None:
        if set(streams) != set(weights):
            raise SpecError(f"weights: name {sorted(weights)}, the streams are {sorted(streams)}")
        self.schedule = Schedule(weights)
        self.streams, self.rows, self.seed, self.draws, self.drawn = dict(streams), rows, seed, draws, 0
        self.names = sorted(streams)
        fractions = np.array([float(weights[name]) for name in self.names])
        self._ends = np.cumsum(fractions / fractions.sum())[:-1]

    def take(self, count: int) -> list[Any]:
        """The next `count` rows. A random draw depends on the row's number alone: any number may be taken at once."""
        numbers = range(self.drawn, self.drawn + count)
        picks = [next(self.schedule) if self.draws == "exact" else self._random(number) for number in numbers]
        self.drawn += count
        queues = {name: iter(self.streams[name].take(picks.count(name))) for name in sorted(set(picks))}
        return [next(queues[name]) for name in picks]

    def _random(self, number: int) -> str:
        drawn = numpy_generator(self.seed, "mixture", number).random()
        return self.names[int(np.searchsorted(self._ends, drawn, "right"))]

    def __iter__(self) -> MixedRows:
        return self

    def __next__(self) -> list[Any]:
        """The rows of one optimizer step."""
        return self.take(self.rows)

    def state(self) -> SourceState:
        """How many rows were drawn, and every part's own state; a part's tensors are under its number in `names`."""
        states = {name: self.streams[name].state() for name in self.names}
        found: dict[str, Any] = {"drawn": self.drawn, "streams": {name: state for name, (state, _) in states.items()}}
        if self.draws == "exact":
            found["schedule"] = self.schedule.state()[0]
        return found, {f"{i}.{k}": v for i, name in enumerate(self.names) for k, v in states[name][1].items()}

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from a state. Raises DataError when it belongs to other parts or weights."""
        if self.draws == "exact":
            self.schedule.restore(state.get("schedule", {}), {})
        if sorted(state.get("streams", {})) != self.names:
            raise DataError(f"the state of the data has the parts {sorted(state.get('streams', {}))}, not {self.names}")
        self.drawn = int(state["drawn"])
        own: list[dict[str, Tensor]] = [{} for _ in self.names]
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            own[int(number)][name] = value
        for name, theirs in zip(self.names, own, strict=True):
            self.streams[name].restore(state["streams"][name], theirs)


def best_fit(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Best-fit decreasing: which items share a bin. O(n log n + n capacity / 64) by a bit set of free sizes.

    Args:
        sizes: (n,) sizes, none above `capacity`.
    """
    bins: list[list[int]] = []
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]  # open bins by the room left in them
    rooms = 0  # bit r is set where waiting[r] is not empty
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = waiting[room].pop()
            if not waiting[room]:
                rooms ^= 1 << room
            bins[number].append(item)
        else:
            room, number = capacity, len(bins)
            bins.append([item])
        left = room - size
        if left:
            waiting[left].append(number)
            rooms |= 1 << left
    return bins
