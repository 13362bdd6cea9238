"""The same state in pages: keys and values live in blocks of a few tokens that rows share and requests find again.

    pool = BlockPool(model.start(1));  state = PagedState.start(pool, rows);  model(ids, state)

A row is a list of blocks; row b's token t is in slot t % N of block t // N (N tokens a block). A fork (`select`,
`join`) copies no tokens, and a row that writes into a block which others hold too copies that block first.

Attention gathers a layer's blocks into one tensor and goes on as it always does, so every model whose layers remember
`KVCache` can be paged, and gives the same values. The gathering is the price; shared beginnings are the gain.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.models._block_pool import ZEROS, BlockPool, PagedSlotMapping
from llmanac.models._state import DecodingState


class PagedState(DecodingState):
    """Rows of blocks; see `core.types.State` and the module. `close` releases its blocks, as does deletion."""

    def __init__(self, pool: BlockPool, blocks: list[list[int]], counts: list[int]) -> None:
        self.pool, self.blocks, self.counts = pool, blocks, counts  # counts: lengths, on the host
        self._table: Tensor | None = None
        self._closed = False
        super().__init__(pool.layers, torch.zeros(0, dtype=torch.long))  # type: ignore[arg-type]
        self._set(torch.tensor(counts, dtype=torch.long, device=pool.device))

    @classmethod
    def start(cls, pool: BlockPool, batch: int) -> PagedState:
        """Empty rows."""
        return cls(pool, [[] for _ in range(batch)], [0] * batch)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that its rows hold; a block that several hold counts once."""
        return len({block for row in self.blocks for block in row}) * self.pool.block_bytes

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more tokens a row."""
        missing = [self._blocks_for(n + tokens) - len(row) for n, row in zip(self.counts, self.blocks, strict=True)]
        self.pool.reserve(sum(max(0, n) for n in missing))

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.pool.block_tokens)

    def slot_mapping(self, tokens: int) -> PagedSlotMapping:
        """Where the next tokens go; takes the blocks for them, and copies those that others hold too."""
        pool, size = self.pool, self.pool.block_tokens
        for row, count in zip(self.blocks, self.counts, strict=True):
            first = count // size
            if count % size and pool.shared(row[first]):
                old = row[first]
                row[first] = pool.copy(old)
                pool.release([old])
                self._table = None
            missing = self._blocks_for(count + tokens) - len(row)
            if missing > 0:
                row += pool.take(missing)
                self._table = None
        if self._table is None:
            longest = max(map(len, self.blocks), default=0)
            padded = [[*row, *[ZEROS] * (longest - len(row))] for row in self.blocks]
            self._table = torch.tensor(padded, dtype=torch.long, device=pool.device).view(len(padded), longest)
        slot_mapping = super().slot_mapping(tokens)
        where = slot_mapping.offsets[:, None] + torch.arange(tokens, device=pool.device)
        slots = self._table.gather(1, where // size) * size + where % size
        table = self._table[:, : self._blocks_for(slot_mapping.keys)]
        return PagedSlotMapping(
            slot_mapping.offsets, slot_mapping.start, slot_mapping.tokens, slot_mapping.keys, slots.flatten(), table
        )

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """Count the new tokens, and release the blocks that only held padding."""
        super().advance(tokens, lengths)
        if lengths is None:
            self.counts = [count + tokens for count in self.counts]
        else:
            self._drop_past_end()

    def _set(self, lengths: Tensor) -> None:
        super()._set(lengths)
        self.counts = lengths.tolist()

    def _drop_past_end(self) -> None:
        """Release blocks past the rows' ends: of padding, of rewound tokens, of a failed call."""
        for row, count in zip(self.blocks, self.counts, strict=True):
            keep = self._blocks_for(count)
            if len(row) > keep:
                self.pool.release(row[keep:])
                del row[keep:]
                self._table = None

    def rewind(self, lengths: Tensor) -> None:
        """Forget each row's tokens past `lengths` (B,). Raises RequestError as `DecodingState.rewind` does."""
        super().rewind(lengths)
        self._drop_past_end()

    def select(self, rows: Tensor) -> PagedState:
        """A state of these rows (repeats allowed), which shares their blocks until one of them is written to."""
        self._drop_past_end()
        chosen = rows.tolist()
        blocks = [list(self.blocks[row]) for row in chosen]
        for row in blocks:
            self.pool.hold(row)
        return PagedState(self.pool, blocks, [self.counts[row] for row in chosen])

    def fork(self) -> PagedState:
        """Another state of the same rows, which shares all blocks."""
        return self.select(torch.arange(len(self.blocks)))

    def join(self, other: DecodingState) -> PagedState:
        """The rows of both, these first; all blocks are shared.

        Raises:
            RequestError: the other state keeps its blocks elsewhere, or in none.
        """
        if not isinstance(other, PagedState) or other.pool is not self.pool:
            raise RequestError("state: cannot join states of two pools; start both from the same one")
        self._drop_past_end()
        other._drop_past_end()
        both = [list(row) for row in (*self.blocks, *other.blocks)]
        for row in both:
            self.pool.hold(row)
        return PagedState(self.pool, both, [*self.counts, *other.counts])

    def close(self) -> None:
        """Release all blocks; the state is empty afterwards. Closing twice does nothing."""
        with self.pool.lock:
            if self._closed:
                return
            self._closed = True
            for row in self.blocks:
                self.pool.release(row)
            self.blocks, self._table = [], None
            self.pool.trim()
            self._set(self.lengths[:0])

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # an interpreter that shuts down has no modules left
            self.close()
