"""What decoding remembers. A `DecodingState` has one row a sequence and one `LayerState` a layer.

A layer's state is one of a few kinds: a growing or paged key-value cache (`kv.py`, `paged.py`), a ring of the last keys
(`ring.py`), a recurrent state (`recurrent.py`), the keys of an encoder's output (`cross.py`), several of these
(`cross.py`), or None. What a kind cannot do it refuses with a sentence; nothing is silently wrong.

Rows are added at the end (`extend`), reordered, copied or dropped (`arrange`), and a range of them is a state of its
own over the same memory (`view`). So rows that join or leave a batch copy nothing but rows that change their place.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llmanac.core.errors import RequestError

if TYPE_CHECKING:  # a state of the native runner needs no torch
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SlotMapping:
    """Where the next tokens of a forward pass are stored.

    Attributes:
        offsets: (B,) tokens that each row holds already: the position of its first new token.
        start: the same as one number where all rows agree, else None.
        tokens: T, new tokens a row (a padded batch counts its padding).
        keys: S, tokens of the longest row with the new ones.
        lengths: (B,) new tokens of each row that are real, or None for all T.
        planned: (B,) tokens that each row is planned for; see `DecodingState.plan`.
        known: what layers with equal caches compute once: an index, key positions of a ring (and so one mask).
    """

    offsets: Tensor
    start: int | None
    tokens: int
    keys: int
    lengths: Tensor | None
    planned: Tensor
    known: dict[Any, Any] = field(default_factory=dict)

    @property
    def key_positions(self) -> Tensor:
        """(1, S): positions of the keys of a cache that holds a row's tokens in order; made where a layer has one."""
        import torch

        if "keys" not in self.known:
            self.known["keys"] = torch.arange(self.keys, device=self.offsets.device)[None]
        made: Tensor = self.known["keys"]
        return made

    def positions(self) -> Tensor:
        """(B, T): positions of the new tokens."""
        import torch

        return self.offsets[:, None] + torch.arange(self.tokens, device=self.offsets.device)

    def real(self) -> Tensor:
        """(B, T) bool: which of the new tokens are real."""
        import torch

        steps = torch.arange(self.tokens, device=self.offsets.device)
        if self.lengths is None:
            return steps.new_ones((len(self.offsets), self.tokens), dtype=torch.bool)
        return steps < self.lengths[:, None]


class LayerState:
    """What one layer (or the head) remembers; rows are sequences.

    Attributes:
        kind: what it is called in error messages.
        grows: whether it has `growing`, so that it can be kept in blocks.
    """

    kind: ClassVar[str] = "layer"
    grows: ClassVar[bool] = False

    @property
    def nbytes(self) -> int:
        """Bytes held, unused capacity included."""
        raise NotImplementedError

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row in all."""

    def append(self, slots: SlotMapping, *new: Tensor) -> tuple[Tensor, ...]:
        """Store new tensors and return `(*tensors, key positions (B or 1, S))`: all that a query may attend to.

        Key positions equal to `slots.key_positions` are that very tensor.
        """
        raise RequestError(f"state: a {self.kind} state cannot be appended to")

    def mark(self, counts: Sequence[int]) -> Any:
        """What `rewind` needs to return to this moment, in which rows have `counts` tokens; None for nothing."""
        return None

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Raises RequestError where the state cannot return to `lengths` from `counts`; changes nothing."""

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Forget each row's tokens past `lengths`, which `check_rewind` allowed; `counts` are the lengths before."""
        raise RequestError(f"state: a {self.kind} state cannot be rewound")

    def extend(self, rows: int) -> None:
        """Add empty rows at the end."""
        raise NotImplementedError

    def arrange(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; repeats copy, rows not named are dropped."""
        raise NotImplementedError

    def view(self, start: int, stop: int) -> Any:
        """A range of rows as a state over the same memory."""
        raise NotImplementedError

    def select(self, rows: Tensor) -> Any:
        """An independent copy of these rows (repeats allowed)."""
        raise NotImplementedError

    def join(self, other: Any) -> Any:
        """An independent state of the rows of both."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class MarkedRow:
    """A length that a row had when it was marked."""

    length: int


@dataclass(eq=False)
class StateRow:
    """One sequence of a state. Views of a state hold the same objects."""

    count: int = 0  # tokens seen
    blocks: list[int] = field(default_factory=list)  # of a paged state
    plan: int = 0  # tokens it is to be read as one of, where that was said
    planned: int = 0  # the same as its first tokens settled it
    soft_tokens: int = 0  # of them, what an adapter put before its tokens; see `models/soft_prompt.py`
    source: bool = False  # whether it was given a source sequence
    images: Any = None  # what the images of its prompt are to the model; see `generate/images.py`
    epoch: int = 0  # of the weights that its blocks were computed with
    version: int = 0  # counts changes of `blocks`
    marks: weakref.WeakSet[MarkedRow] = field(default_factory=weakref.WeakSet)  # moments it can still return to

    def copy(self) -> StateRow:
        """The same sequence in a contiguous state of its own."""
        return StateRow(
            self.count,
            plan=self.plan,
            planned=self.planned,
            soft_tokens=self.soft_tokens,
            source=self.source,
            images=self.images,
        )

    def cut(self, count: int) -> None:
        """Forget the tokens past `count`; marks past it are no longer valid."""
        for mark in list(self.marks):
            if mark.length > count:
                self.marks.discard(mark)
        self.count = count
        self.source = self.source and count > 0


@dataclass(frozen=True)
class Mark:
    """A moment to return to: each row's length, and what each layer needs."""

    rows: tuple[MarkedRow, ...]
    layers: tuple[Any, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(row.length for row in self.rows)


class DecodingState:
    """The state of a model; contiguous storage. See `core.types.State`.

    Attributes:
        layers: one LayerState a layer, and one for the head (None where nothing is remembered).
        rows: one Row a sequence.
        by_length: where the model's positions depend on the length that a row is planned for: up to how many tokens
            a row of so many may grow until it has to be read again; None where they do not.
    """

    by_length: Callable[[int], int] | None = None

    def __init__(
        self, layers: Sequence[Any], rows: int | Sequence[StateRow], device: torch.device | str = "cpu"
    ) -> None:
        self.layers = list(layers)
        self.rows = [StateRow() for _ in range(rows)] if isinstance(rows, int) else list(rows)
        self.device = device

    @property
    def counts(self) -> list[int]:
        """Tokens that each row has seen, on the host."""
        return [row.count for row in self.rows]

    @property
    def lengths(self) -> Tensor:
        """(B,) int64: the same on the device."""
        import torch

        return torch.tensor(self.counts, dtype=torch.long, device=self.device)

    @property
    def batch(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes held, unused capacity included."""
        return sum(layer.nbytes for layer in self.layers if layer is not None)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens a row."""
        for layer in self.layers:
            if layer is not None:
                layer.reserve(max(self.counts, default=0) + tokens)

    def slots(self, tokens: int, lengths: Tensor | None = None) -> SlotMapping:
        """Where the next `tokens` tokens of every row go, `lengths` (B,) of them real."""
        import torch

        counts = self.counts
        longest = max(counts, default=0)
        keys = longest + tokens
        start = longest if min(counts, default=0) == longest else None
        if self.by_length and 0 in counts:
            new = [tokens] * len(counts) if lengths is None else lengths.tolist()
            for row, count in zip(self.rows, new, strict=True):
                row.planned = max(row.plan, count) if row.count == 0 else row.planned
        planned = torch.tensor([row.planned for row in self.rows], dtype=torch.long, device=self.device)
        return SlotMapping(
            offsets=self.lengths, start=start, tokens=tokens, keys=keys, lengths=lengths, planned=planned
        )

    def plan(self, tokens: Sequence[int]) -> None:
        """Say how many tokens each row is to be read as one of, before its first ones are read.

        Positions that depend on a row's length (RoPE scaled by `dynamic` or `longrope`) take it from here for as long
        as the row lives, since keys that are cached were turned with it. A row without a plan is planned for its
        first piece.
        """
        for row, count in zip(self.rows, tokens, strict=True):
            if row.count == 0:
                row.plan = int(count)

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """Count `tokens` new tokens a row, or `lengths` (B,) of them where rows were padded."""
        new = [tokens] * len(self.rows) if lengths is None else lengths.tolist()
        for row, count in zip(self.rows, new, strict=True):
            row.count += count

    def mark(self) -> Mark:
        """This moment, for `rewind`."""
        counts = self.counts
        rows = tuple(MarkedRow(count) for count in counts)
        for row, made in zip(self.rows, rows, strict=True):
            row.marks.add(made)
        return Mark(rows, tuple(None if layer is None else layer.mark(counts) for layer in self.layers))

    def rewind(self, mark: Mark | None, lengths: Sequence[int] | Tensor | None = None) -> None:
        """Forget each row's tokens past `lengths` (by default the mark's).

        Args:
            mark: from `mark`, taken on the same rows; None is enough for growing caches.
            lengths: between 0 and each row's own.

        Raises:
            RequestError: a row would become longer than it is or negative, or a layer cannot return there.
        """
        if lengths is None:
            if mark is None:
                raise RequestError("state: rewind needs a mark or lengths")
            lengths = mark.lengths
        new = [int(n) for n in lengths]
        counts = self.counts
        if len(new) != len(counts) or any(not 0 <= n <= m for n, m in zip(new, counts, strict=True)):
            raise RequestError(
                f"state: cannot rewind rows of {counts} tokens to {new}; give every row a length between 0 and its own"
            )
        if mark is not None and (
            len(mark.rows) != len(counts)
            or any(made not in row.marks for made, row in zip(mark.rows, self.rows, strict=True))
        ):
            raise RequestError(
                "state: the mark is of other rows, or of tokens that were forgotten since; take a new one"
            )
        held = (None,) * len(self.layers) if mark is None else mark.layers
        parts = [(layer, kept) for layer, kept in zip(self.layers, held, strict=True) if layer is not None]
        for layer, kept in parts:  # all of them, or none
            layer.check_rewind(kept, new, counts)
        for layer, kept in parts:
            layer.rewind(kept, new, counts)
        for row, count in zip(self.rows, new, strict=True):
            row.cut(count)

    def extend(self, rows: int = 1) -> None:
        """Add empty rows at the end."""
        for layer in self.layers:
            if layer is not None:
                layer.extend(rows)
        self.rows += [StateRow() for _ in range(rows)]

    def arrange(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; repeats copy, rows not named are dropped."""
        if list(order) == list(range(len(self.rows))):
            return
        for layer in self.layers:
            if layer is not None:
                layer.arrange(order)
        self.rows = [self.rows[i].copy() for i in order]

    def view(self, start: int, stop: int) -> DecodingState:
        """Rows `start` to `stop` as a state over the same memory, until rows are next added or arranged."""
        layers = [None if layer is None else layer.view(start, stop) for layer in self.layers]
        return self._like(layers, self.rows[start:stop])

    def select(self, rows: Tensor) -> DecodingState:
        """An independent copy of these rows (indices, repeats allowed)."""
        rows = rows.to(self.device)
        layers = [None if layer is None else layer.select(rows) for layer in self.layers]
        return self._like(layers, [self.rows[i].copy() for i in rows.tolist()])

    def join(self, other: DecodingState) -> DecodingState:
        """An independent state of the rows of both, these first.

        Raises:
            RequestError: the two states belong to models of different depth.
        """
        if type(other) is not DecodingState or len(self.layers) != len(other.layers):
            raise RequestError(
                f"state: cannot join a state of {len(self.layers)} parts with one of {len(other.layers)}; "
                "both must come from the same model"
            )
        layers = [None if a is None or b is None else a.join(b) for a, b in zip(self.layers, other.layers, strict=True)]
        return self._like(layers, [row.copy() for row in (*self.rows, *other.rows)])

    def _like(self, layers: Sequence[Any], rows: Sequence[StateRow]) -> DecodingState:
        """A state of the same model."""
        state = DecodingState(layers, rows, self.device)
        state.by_length = self.by_length
        return state

    def close(self) -> None:
        """Return what others could use; a contiguous state holds nothing of the kind."""
