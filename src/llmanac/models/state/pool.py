"""Blocks of a few tokens for all layers of a model: which rows hold them, and which can be found by their tokens.

A block is counted by how many rows hold it. A full one may be registered under the hash of its tokens and of all tokens
before them; it outlives its rows, idle, until a row with the same beginning takes it up again or the room is needed:
the least recently used goes first. (The idea: vLLM, Kwon et al. 2023, arXiv:2309.06180.) `paged.py` makes a state
of them.
"""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.models.state import DecodingState, SlotMapping

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_TOKENS = 16
SMALLEST = 8  # blocks of a first allocation
ZEROS = 0  # a block of zeros that pads the tables; it is never written to


def pageable(state: Any) -> bool:
    """Whether a model's (contiguous) state can be kept in blocks: all it remembers grows token by token."""
    growing = type(state) is DecodingState and all(x is None or x.grows for x in state.layers)
    return growing and not state.by_length  # keys turned for one length are of no use to a row of another


@dataclass(frozen=True, kw_only=True)
class PagedSlots(SlotMapping):
    """A `SlotMapping` that knows the blocks too.

    Attributes:
        places: (B * T,) where each new token goes in a store seen as one row of slots.
        table: (B, blocks) the blocks of each row, `ZEROS` past its end.
        gathered: what each layer gathered for the same rows before, for the tokens before these; None gathers again.
    """

    places: Tensor
    table: Tensor
    gathered: dict[int, Any] | None = None


class HostKeys:
    """What a layer of the native runner remembers: keys and values, each (heads, width) a token, of a NumPy dtype."""

    grows = True

    def __init__(self, heads: int, width: int, dtype: str) -> None:
        self.heads, self.width, self.dtype = heads, width, np.dtype(dtype)

    def growing(self) -> HostKeys:
        return self

    def paged(self, block_tokens: int) -> HostLayer:
        """An empty store of blocks."""
        return HostLayer([np.zeros((1, block_tokens, self.heads, self.width), self.dtype) for _ in range(2)])


class HostLayer:
    """The stores of one layer as arrays, which the native runner reads by address."""

    def __init__(self, stores: list[np.ndarray[Any, Any]]) -> None:
        self.stores = stores

    def resize(self, capacity: int) -> None:
        """Make room for so many blocks; what is new is zero."""
        for i, store in enumerate(self.stores):
            self.stores[i] = np.zeros((capacity, *store.shape[1:]), store.dtype)
            self.stores[i][: len(store)] = store[:capacity]

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """Any length."""

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        """The lengths say it all."""

    def mark(self, counts: Sequence[int]) -> None:
        """The lengths say it all."""


class BlockPool:
    """The blocks of all layers, who holds them, and which full ones can be found by their tokens.

    Args:
        like: an empty state of the model, whose layers say what a token needs.
        block_tokens: N.
        budget: bytes that idle and held blocks may take together; rows that run are never refused a block, so they
            alone may take more. None keeps every idle block. States of a pool with a budget may keep as many bytes
            of gathered rows (`paged.py`).

    Raises:
        RequestError: a state that cannot be kept in blocks.
    """

    def __init__(self, like: Any, *, block_tokens: int = BLOCK_TOKENS, budget: int | None = None) -> None:
        if not pageable(like):
            raise RequestError(
                "state: this model remembers more than growing buffers, or keys that depend on a row's length; it "
                "cannot be kept in blocks"
            )
        if block_tokens < 1:
            raise RequestError(f"block_tokens: {block_tokens} is not at least 1")
        self.block_tokens, self.device = block_tokens, like.device
        self.layers = [None if x is None else x.growing().paged(block_tokens) for x in like.layers]
        self.block_bytes = sum(store.nbytes for store in self.stores())
        self.most = None if budget is None else budget // max(1, self.block_bytes)  # blocks that the budget allows
        self.evictions = 0
        self.lock = threading.RLock()  # held while a model is stepped with this pool, and while a state is closed
        self._holders = [1]  # by block; the block of zeros is always held
        self._free: list[int] = []
        self._idle: OrderedDict[int, None] = OrderedDict()  # registered, not held; least recently used first
        self._found: dict[bytes, int] = {}  # digest -> block
        self._digests: dict[int, bytes] = {}  # block -> digest

    def stores(self) -> Iterator[Any]:
        """Those of all layers, blocks first."""
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
        for layer in self.layers:
            if layer is not None:
                layer.resize(capacity)
        if capacity > old:
            self._holders += [0] * (capacity - old)
            self._free += range(old, capacity)
            heapq.heapify(self._free)
        else:
            del self._holders[capacity:]
            self._free = [block for block in self._free if block < capacity]
            heapq.heapify(self._free)

    def trim(self) -> None:
        """Free memory once at most a quarter of it is needed, or it exceeds the budget and need not.

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
        for store in self.stores():
            store[to] = store[block]
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
            for store in self.stores():
                store[taken] = 0  # old contents are cleared: a NaN would spoil even a masked product
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
        for store in self.stores():
            store[new] = store[block]
        return new

    # ---------------------------------------------------------------- blocks by their tokens
    def digests(self, ids: Sequence[int], key: bytes = b"") -> Iterator[bytes]:
        """A name for each full block of a text: the hash of its tokens and of the name before it, at first `key`."""
        size, name = self.block_tokens, key
        data = np.asarray(ids, np.int64)
        for start in range(0, len(data) - size + 1, size):
            name = hashlib.sha256(name + data[start : start + size].tobytes()).digest()
            yield name

    def find(self, ids: Sequence[int], key: bytes = b"") -> list[int]:
        """The registered blocks that a text begins with, as far as they go; they are held once more."""
        blocks: list[int] = []
        for name in self.digests(ids, key):
            block = self._found.get(name)
            if block is None:
                break
            blocks.append(block)
        self.hold(blocks)
        return blocks

    def register(self, blocks: Sequence[int], ids: Sequence[int], key: bytes = b"") -> None:
        """Let the full blocks of a row that holds `ids` be found again; they are never written to after this."""
        for block, name in zip(blocks, self.digests(ids, key), strict=False):
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
