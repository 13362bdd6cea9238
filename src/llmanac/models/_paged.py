"""The same state in pages: keys and values live in blocks of a few tokens that rows share and requests find again.

    pool = BlockPool(model.start(1));  state = PagedState.start(pool, rows);  model(ids, state)

A row is a list of blocks; row b's token t stands in slot t % N of block t // N (N tokens a block). It is counted how
many rows hold a block: a fork (`select`, `join`) copies no tokens, and a row that writes into a block which others
hold too copies that block first. A full block may be registered under the hash of its tokens and of all tokens before
them; it outlives its rows, idle, until a row with the same beginning takes it up again or the room is needed: the least
recently used goes first. (The idea: vLLM, Kwon et al. 2023, arXiv:2309.06180.)

Attention gathers a layer's blocks into one tensor and goes on as it always does, so every model whose layers remember
`Buffers` can be paged, and gives the same values. The gathering is the price; shared beginnings are the gain.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.models._state import Buffers, DecodingState, Place

BLOCK_TOKENS = 16
SMALLEST = 8  # blocks of a first allocation
ZEROS = 0  # a block of zeros that pads the tables; nobody writes to it


def pageable(state: Any) -> bool:
    """Whether a model's (contiguous) state can be kept in blocks: all it remembers grows token by token."""
    layers = getattr(state, "layers", None)
    return type(state) is DecodingState and all(x is None or type(x) is Buffers for x in layers or [])


@dataclass(frozen=True)
class PagedPlace(Place):
    """A `Place` that knows the blocks too.

    Attributes:
        slots: (B * T,) where each new token goes in a store seen as one row of slots.
        table: (B, blocks) the blocks of each row, `ZEROS` past its end.
    """

    slots: Tensor
    table: Tensor


class PagedLayer:
    """What one layer remembers, for all rows of all states of a pool; see `_state.LayerState`."""

    def __init__(self, like: Buffers, block_tokens: int) -> None:
        self.dim = like.dim
        self.stores: list[Tensor] = []
        for tensor in like.tensors:
            shape = list(tensor.shape)
            del shape[self.dim], shape[0]
            self.stores.append(tensor.new_zeros((1, block_tokens, *shape)))

    def append(self, place: PagedPlace, *new: Tensor) -> list[Tensor]:
        """Write the new tokens and return each buffer, gathered, up to the longest row's end."""
        out = []
        for store, value in zip(self.stores, new, strict=True):
            by_token = value.detach() if self.dim == 1 else value.detach().transpose(1, 2)
            flat = store.view(-1, *store.shape[2:])
            flat.index_copy_(0, place.slots, by_token.reshape(-1, *store.shape[2:]).to(store.dtype))
            rows, blocks = place.table.shape
            read = store.index_select(0, place.table.flatten()).view(rows, blocks * store.shape[1], *store.shape[2:])
            read = read[:, : place.keys]
            out.append(read if self.dim == 1 else read.transpose(1, 2))
        return out


class BlockPool:
    """The blocks of all layers, who holds them, and which full ones can be found by their tokens.

    Args:
        like: an empty state of the model, whose layers say what a token needs.
        block_tokens: N.
        budget: bytes that idle and held blocks may take together; rows that run are never refused a block, so they
            alone may take more. None keeps every idle block.

    Raises:
        RequestError: a state that cannot be kept in blocks.
    """

    def __init__(self, like: Any, *, block_tokens: int = BLOCK_TOKENS, budget: int | None = None) -> None:
        if not pageable(like):
            raise RequestError("state: this model remembers more than growing buffers; it cannot be kept in blocks")
        if block_tokens < 1:
            raise RequestError(f"block_tokens: {block_tokens} is not at least 1")
        self.block_tokens, self.device = block_tokens, like.lengths.device
        with torch.inference_mode(False):  # so that the stores can be written in any mode
            self.layers = [None if x is None else PagedLayer(x, block_tokens) for x in like.layers]
        self.block_bytes = sum(store.nbytes for store in self._stores())
        self.most = None if budget is None else budget // max(1, self.block_bytes)  # blocks that the budget allows
        self.evictions = 0
        self.lock = threading.RLock()  # whoever steps a model with this pool holds it; so does a state that ends
        self._holders = [1]  # by block; the block of zeros is always held
        self._free: list[int] = []
        self._idle: OrderedDict[int, None] = OrderedDict()  # registered, held by nobody; least recently used first
        self._found: dict[bytes, int] = {}  # digest -> block
        self._digests: dict[int, bytes] = {}  # block -> digest

    def _stores(self) -> Iterator[Tensor]:
        return (store for layer in self.layers if layer is not None for store in layer.stores)

    # ---------------------------------------------------------------- sizes
    @property
    def capacity(self) -> int:
        """Blocks that there is memory for."""
        return len(self._holders)

    @property
    def nbytes(self) -> int:
        """Memory taken, free blocks included."""
        return self.capacity * self.block_bytes

    @property
    def held(self) -> int:
        """Blocks in use by rows."""
        return self.capacity - 1 - len(self._free) - len(self._idle)

    @property
    def idle(self) -> int:
        """Blocks kept for their tokens alone."""
        return len(self._idle)

    def reserve(self, blocks: int) -> None:
        """Make memory for so many more blocks, as far as the budget goes, so that taking them does not reallocate."""
        wanted = self.capacity + blocks - len(self._free)
        if self.most is not None:
            wanted = min(wanted, self.most + 1)
        if wanted > self.capacity:
            self._resize(wanted)

    def _resize(self, capacity: int) -> None:
        old = self.capacity
        with torch.inference_mode(False):
            for layer in self.layers:
                for i, store in enumerate(layer.stores if layer is not None else ()):
                    grown = store.new_zeros((capacity, *store.shape[1:]))
                    grown[: min(old, capacity)].copy_(store[:capacity])
                    layer.stores[i] = grown  # type: ignore[union-attr]
        if capacity > old:
            self._holders += [0] * (capacity - old)
            self._free += range(old, capacity)
            heapq.heapify(self._free)
        else:
            del self._holders[capacity:]
            self._free = [block for block in self._free if block < capacity]
            heapq.heapify(self._free)

    def trim(self) -> None:
        """Give memory back once at most a quarter of it is needed, or it is more than the budget and need not be.

        Idle blocks move to make room.
        """
        needed, target = self.held + self.idle + 1, self.capacity
        if needed * 4 <= self.capacity:
            target = max(needed * 2, SMALLEST)
        if self.most is not None and needed <= self.most + 1:
            target = min(target, self.most + 1)
        if target >= self.capacity:
            return
        if any(self._holders[block] for block in range(target, self.capacity)):
            return  # a row holds a block up there; it is tried again when that row ends
        for block in [block for block in self._idle if block >= target]:
            self._move(block, heapq.heappop(self._free))
        self._resize(target)

    def _move(self, block: int, to: int) -> None:
        """An idle block's tokens and name go to a free one; its turn in the order of use stays."""
        for store in self._stores():
            store[to].copy_(store[block])
        digest = self._digests.pop(block)
        self._digests[to] = digest
        self._found[digest] = to
        self._idle = OrderedDict((to if b == block else b, None) for b in self._idle)
        heapq.heappush(self._free, block)

    # ---------------------------------------------------------------- taking and giving back
    def take(self, count: int) -> list[int]:
        """New blocks of zeros, held once each."""
        taken = []
        for _ in range(count):
            if not self._free:
                if self._idle and self.most is not None and self.capacity > self.most:
                    self._evict()
                else:
                    size = max(2 * self.capacity, SMALLEST)
                    if self.most is not None:
                        within = self.most + 1
                        size = min(size, within) if self.capacity < within else self.capacity * 5 // 4 + 1
                    self._resize(size)
            block = heapq.heappop(self._free)
            self._holders[block] = 1
            taken.append(block)
        self._within_budget()
        if taken:
            index = torch.tensor(taken, device=self.device)
            for store in self._stores():
                store.index_fill_(0, index, 0)  # what stood there is gone; a NaN would spoil even a masked product
        return taken

    def hold(self, blocks: Sequence[int]) -> None:
        """One more holder for each block."""
        for block in blocks:
            if not self._holders[block]:
                del self._idle[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One holder fewer. Given in a row's order: its last blocks become the least recently used."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._digests:
                self._idle[block] = None
            else:
                heapq.heappush(self._free, block)
        self._within_budget()

    def _within_budget(self) -> None:
        while self._idle and self.most is not None and self.held + self.idle > self.most:
            self._evict()

    def _evict(self) -> None:
        block, _ = self._idle.popitem(last=False)
        self._forget(block)
        heapq.heappush(self._free, block)
        self.evictions += 1

    def _forget(self, block: int) -> None:
        del self._found[self._digests.pop(block)]

    def shared(self, block: int) -> bool:
        """Whether a block must not be written to: others hold it, or it is registered."""
        return self._holders[block] > 1 or block in self._digests

    def copy(self, block: int) -> int:
        """A block with the same tokens that is held once."""
        new = self.take(1)[0]
        for store in self._stores():
            store[new].copy_(store[block])
        return new

    # ---------------------------------------------------------------- blocks by their tokens
    def digests(self, ids: Sequence[int]) -> Iterator[bytes]:
        """A name for each full block of a text: the hash of its tokens and of the name before it."""
        size, name = self.block_tokens, b""
        data = np.asarray(ids, np.int64)
        for start in range(0, len(data) - size + 1, size):
            name = hashlib.sha256(name + data[start : start + size].tobytes()).digest()
            yield name

    def find(self, ids: Sequence[int]) -> list[int]:
        """The registered blocks that a text begins with, as far as they go; they are held once more."""
        blocks: list[int] = []
        for name in self.digests(ids):
            block = self._found.get(name)
            if block is None:
                break
            blocks.append(block)
        self.hold(blocks)
        return blocks

    def register(self, blocks: Sequence[int], ids: Sequence[int]) -> None:
        """Let the full blocks of a row that holds `ids` be found again; they are never written to after this."""
        for block, name in zip(blocks, self.digests(ids), strict=False):
            if name not in self._found and block not in self._digests:
                self._found[name], self._digests[block] = block, name

    def forget(self) -> None:
        """No block is found any more: the weights have changed. Idle blocks become free."""
        for block in list(self._digests):
            self._forget(block)
        for block in self._idle:
            heapq.heappush(self._free, block)
        self._idle.clear()
        self.trim()


class PagedState(DecodingState):
    """Rows of blocks; see `core.types.State` and the module. `close` gives its blocks back (so does its end)."""

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

    def place(self, tokens: int) -> PagedPlace:
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
        place = super().place(tokens)
        where = place.offsets[:, None] + torch.arange(tokens, device=pool.device)
        slots = self._table.gather(1, where // size) * size + where % size
        table = self._table[:, : self._blocks_for(place.keys)]
        return PagedPlace(place.offsets, place.start, place.tokens, place.keys, slots.flatten(), table)

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """Count the new tokens, and give back the blocks that only held padding."""
        super().advance(tokens, lengths)
        if lengths is None:
            self.counts = [count + tokens for count in self.counts]
        else:
            self._drop_past_end()

    def _set(self, lengths: Tensor) -> None:
        super()._set(lengths)
        self.counts = lengths.tolist()

    def _drop_past_end(self) -> None:
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
        both = [list(row) for row in (*self.blocks, *other.blocks)]
        for row in both:
            self.pool.hold(row)
        return PagedState(self.pool, both, [*self.counts, *other.counts])

    def close(self) -> None:
        """Give all blocks back; the state is empty afterwards. Closing twice does nothing."""
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
