"""The same state in pages: keys and values in blocks of a few tokens, which rows share and requests find again.

    pool = BlockPool(model.start(1));  state = PagedState.start(pool, rows);  model(ids, state)

A row is a list of blocks; row b's token t is in slot t % N of block t // N (N tokens a block). A fork copies no tokens,
and a row that writes into a block which others hold too copies that block first.

Attention gathers a layer's blocks into one tensor and continues as it always does, so every model whose layers remember
growing caches can be paged and gives the same values. Rows that go on together keep what was gathered, and new tokens
are written there too, as long as it fits the pool's budget; otherwise each call gathers again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.models.state import DecodingState, Mark, StateRow
from llmanac.models.state.pool import ZEROS, BlockPool, PagedSlots

if TYPE_CHECKING:
    from torch import Tensor

    from llmanac.models.state.kv import KVCache


@dataclass
class GatheredKeys:
    """What the layers gathered for some rows.

    Attributes:
        rows: whose tokens; known: how many of each it has.
        layers: by the layer's id.
    """

    rows: list[StateRow]
    known: list[int]
    layers: dict[int, KVCache] = field(default_factory=dict)


class PagedState(DecodingState):
    """Rows of blocks; see `core.types.State` and the module. `close` returns its blocks to the pool (so does its end).

    Args:
        blocks: of each row; the state holds them from now on.
        counts: tokens of each row.
    """

    def __init__(self, pool: BlockPool, blocks: Sequence[list[int]], counts: Sequence[int]) -> None:
        rows = [StateRow(count, own) for count, own in zip(counts, blocks, strict=True)]
        super().__init__(pool.layers, rows, pool.device)
        self.pool = pool
        self._table: np.ndarray | None = None
        self._versions: list[tuple[int, int]] = []  # of the rows that the table is of
        self._gathered: list[GatheredKeys] = []  # of disjoint rows; views have the same list
        self._owner = True

    @classmethod
    def start(cls, pool: BlockPool, batch: int) -> PagedState:
        """Empty rows."""
        return cls(pool, [[] for _ in range(batch)], [0] * batch)

    @property
    def blocks(self) -> list[list[int]]:
        """The blocks of each row."""
        return [row.blocks for row in self.rows]

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that its rows hold; a block that several hold counts once."""
        return len({block for row in self.rows for block in row.blocks}) * self.pool.block_bytes

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens a row."""
        self.pool.reserve(sum(max(0, self._blocks_for(r.count + tokens) - len(r.blocks)) for r in self.rows))

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.pool.block_tokens)

    def claim(self, tokens: Sequence[int]) -> np.ndarray:
        """(B, blocks): the blocks of each row with its next `tokens` ones, `ZEROS` past its end.

        Takes the blocks for them, and copies those to be written to that others hold too.
        """
        pool, size = self.pool, self.pool.block_tokens
        for row, new in zip(self.rows, tokens, strict=True):
            first = row.count // size
            if row.count % size and pool.shared(row.blocks[first]):
                old = row.blocks[first]
                row.blocks[first] = pool.copy(old)
                pool.release([old])
                row.version += 1
            missing = self._blocks_for(row.count + new) - len(row.blocks)
            if missing > 0:
                row.blocks += pool.take(missing)
                row.version += 1
        versions = [(id(row), row.version) for row in self.rows]
        if self._table is None or versions != self._versions:
            self._versions = versions
            longest = max((len(row.blocks) for row in self.rows), default=0)
            padded = [[*row.blocks, *[ZEROS] * (longest - len(row.blocks))] for row in self.rows]
            self._table = np.array(padded, np.int64).reshape(len(padded), longest)
        return self._table

    def slots(self, tokens: int, lengths: Tensor | None = None) -> PagedSlots:
        """Where the next tokens go; takes the blocks for them."""
        import torch

        size = self.pool.block_tokens
        found = torch.as_tensor(self.claim([tokens] * len(self.rows)), device=self.pool.device)
        plain = super().slots(tokens, lengths)
        where = plain.positions()
        places = found.gather(1, where // size) * size + where % size
        table = found[:, : self._blocks_for(plain.keys)]
        return PagedSlots(
            **vars(plain), places=places.flatten(), table=table, gathered=self._gather(tokens, plain.keys)
        )

    def _gather(self, tokens: int, keys: int) -> dict[int, KVCache] | None:
        """What was gathered for just these rows, with the next tokens counted; what others hold of them is dropped."""
        own = {id(row) for row in self.rows}
        found: GatheredKeys | None = None
        for held in list(self._gathered):
            same = len(held.rows) == len(self.rows) and all(a is b for a, b in zip(held.rows, self.rows, strict=True))
            if same and all(row.count <= n for row, n in zip(self.rows, held.known, strict=True)):
                found = held
            elif any(id(row) in own for row in held.rows):
                self._gathered.remove(held)
        others = sum(len(held.rows) * max(held.known) for held in self._gathered if held is not found)
        if self.pool.most is None or others + len(self.rows) * keys > self.pool.most * self.pool.block_tokens:
            if found is not None:
                self._gathered.remove(found)
            return None
        known = [row.count + tokens for row in self.rows]
        if found is None:  # rows that go on together are expected only once they have done so
            self._gathered.append(GatheredKeys(self.rows[:], known))
            return None
        found.known = known
        return found.layers

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """Count the new tokens, and return the blocks that only held padding."""
        super().advance(tokens, lengths)
        if lengths is not None:
            self._drop_past_end()

    def _drop_past_end(self) -> None:
        """Return blocks past the rows' ends: of padding, of what was forgotten, of a call that failed."""
        for row in self.rows:
            keep = self._blocks_for(row.count)
            if len(row.blocks) > keep:
                self.pool.release(row.blocks[keep:])
                del row.blocks[keep:]
                row.version += 1

    def rewind(self, mark: Mark | None, lengths: Sequence[int] | Tensor | None = None) -> None:
        """Forget each row's tokens past `lengths` (B,). Raises RequestError as `DecodingState.rewind` does."""
        super().rewind(mark, lengths)
        self._drop_past_end()

    def extend(self, rows: int = 1) -> None:
        """Add empty rows at the end."""
        self.rows += [StateRow() for _ in range(rows)]
        self._table = None

    def take(self, other: PagedState) -> None:
        """Add the rows of a state of the same pool, which is empty afterwards. Raises RequestError as `join` does."""
        if other.pool is not self.pool:
            raise RequestError("state: cannot join states of two pools; start both from the same one")
        self.rows += other.rows
        other.rows, self._table = [], None

    def arrange(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; no token is copied."""
        self._drop_past_end()
        old, self.rows = self.rows, self._rows(order)
        for row in old:
            self.pool.release(row.blocks)
        self._table = None
        self._gathered.clear()

    def _rows(self, order: Sequence[int]) -> list[StateRow]:
        """New rows that hold the blocks of these rows too."""
        rows = []
        for old in (self.rows[i] for i in order):
            rows.append(old.copy())
            rows[-1].blocks, rows[-1].epoch = list(old.blocks), old.epoch
        for row in rows:
            self.pool.hold(row.blocks)
        return rows

    def view(self, start: int, stop: int) -> PagedState:
        """A range of rows as a state over the same blocks."""
        part = PagedState(self.pool, [], [])
        part.rows, part._owner, part._gathered = self.rows[start:stop], False, self._gathered
        return part

    def select(self, rows: Tensor) -> PagedState:
        """A state of these rows (repeats allowed), which shares their blocks until one of them is written to."""
        return self._selected(rows.tolist())

    def _selected(self, rows: Sequence[int]) -> PagedState:
        self._drop_past_end()
        chosen = PagedState(self.pool, [], [])
        chosen.rows = self._rows(rows)
        return chosen

    def fork(self) -> PagedState:
        """Another state of the same rows, which shares all blocks."""
        return self._selected(range(len(self.rows)))

    def join(self, other: DecodingState) -> PagedState:
        """The rows of both, these first; all blocks are shared.

        Raises:
            RequestError: the other state keeps its blocks elsewhere, or in none.
        """
        if not isinstance(other, PagedState) or other.pool is not self.pool:
            raise RequestError("state: cannot join states of two pools; start both from the same one")
        joined, more = self.fork(), other.fork()
        joined.rows += more.rows
        more.rows = []
        return joined

    def close(self) -> None:
        """Return all blocks; the state is empty afterwards. Closing twice does nothing."""
        with self.pool.lock:
            if not self._owner:
                return
            self._owner = False
            for row in self.rows:
                self.pool.release(row.blocks)
            self.rows, self._table, self._gathered = [], None, []
            self.pool.trim()

    def __del__(self, _suppress: Any = contextlib.suppress) -> None:
        with _suppress(Exception):  # an interpreter that shuts down has no modules left
            self.close()
