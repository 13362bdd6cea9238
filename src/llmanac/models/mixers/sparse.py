"""Sparse attention: a window, global tokens, and random blocks; time and memory grow with the length, not its square.

    t sees s  if  |t - s| < window,  or s < g or t < g (global tokens),  or the block of the one drew that of the other
    y = W_o softmax(q k^T / sqrt(d) + M) v        M is 0 where t sees s and s is not hidden by the model's mask

Positions count from the start of a document, and blocks are runs of `block` positions. Block j draws `random_blocks` of
the blocks before it, from a hash of the seed and j, and the graph has no direction: so what two tokens are to one
another depends neither on the length of the row nor on its padding, and a causal model sees exactly the past half of a
bidirectional one. A window and global tokens are Longformer (Beltagy et al. 2020); with random blocks it is BigBird
(Zaheer et al. 2020), whose graph any two tokens cross in few steps. The cache keeps all keys.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.kernels.nn.flash import flash_attention
from llmanac.models._tiles import tiles_of
from llmanac.models.forward import Context
from llmanac.models.masks import AttentionMask, by_document
from llmanac.models.mixers import SharedHeadsSpec, softmax
from llmanac.models.mixers.softmax import SoftmaxAttention
from llmanac.models.scores.scaled_dot import ScaledDot
from llmanac.models.state import LayerState
from llmanac.models.state.kv import kv_cache

CARD = {
    "title": "Sparse attention patterns",
    "titles": {"longformer": "Longformer attention", "big-bird": "BigBird attention"},
    "paper": "Beltagy et al. 2020, arXiv:2004.05150; Zaheer et al. 2020, arXiv:2007.14062",
    "reference": "LongformerSelfAttention in transformers; dense attention with the same mask",
    "test": "tests/references/test_sparse.py::test_window_and_global_tokens_equal_longformer",
    "aliases": {"longformer": {"random_blocks": 0}, "big-bird": {"random_blocks": 3}},
}

TILE = 128  # queries a tile


@dataclass(frozen=True, kw_only=True)
class Spec(SharedHeadsSpec):
    """heads, head_dim, kv_heads: as in softmax; window: tokens seen on a side, the own included.

    global_tokens: g, first tokens of a document that see all and are seen by all; random_blocks: blocks that a block
    draws; block: tokens of one; seed: of the draws.
    """

    window: int = 128
    global_tokens: int = 16
    random_blocks: int = 2
    block: int = 64
    seed: int = 0

    ranges = within(COUNT, "window block") | within(NOT_NEGATIVE, "global_tokens random_blocks seed")

    def attention(self) -> softmax.Spec:
        """The softmax attention that it is without a pattern."""
        return softmax.Spec(heads=self.heads, head_dim=self.head_dim, kv_heads=self.kv_heads)

    def build(self, *, dim: int, **dims: Any) -> SparseAttention:
        return SparseAttention(self, dim)


class SparsePattern:
    """Which positions of a document see one another; symmetric. Equal for equal Specs."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._drawn = np.zeros((0, spec.random_blocks), np.int64)

    def drawn(self, blocks: int) -> np.ndarray[Any, Any]:
        """(blocks, random_blocks): earlier blocks that each block draws; block 0 draws itself."""
        if len(self._drawn) < blocks:
            size = max(blocks, 2 * len(self._drawn))
            place = np.arange(size, dtype=np.uint64)[:, None]
            draw = np.arange(self.spec.random_blocks, dtype=np.uint64)
            mixed = _hash(_hash(place * np.uint64(1 << 20) + draw) ^ _hash(np.array([[self.spec.seed]], np.uint64)))
            self._drawn = (mixed % np.maximum(place, np.uint64(1))).astype(np.int64)
        return self._drawn[:blocks]

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions (B or 1, T, 1) and (B or 1, 1, S) -> (B or 1, T, S) bool."""
        spec = self.spec
        seen = (queries - keys).abs() < spec.window
        seen = seen | (queries < spec.global_tokens) | (keys < spec.global_tokens)
        if not spec.random_blocks:
            return seen
        q, k = (x.clamp(min=0) // spec.block for x in (queries, keys))
        largest = max(int(q.max()), int(k.max()))
        table = torch.from_numpy(self.drawn(largest + 1)).to(q.device)
        for draws in table.unbind(1):
            seen = seen | (draws[q] == k) | (draws[k] == q)
        return seen


def _hash(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """SplitMix64 of each number."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=64)
def pattern_of(spec: Spec) -> SparsePattern:
    """One pattern for all layers of a Spec, so that they share masks."""
    return SparsePattern(spec)


class SparseTiles:
    """The tiles of rows whose tokens are at positions 0 .. T - 1: for each block of queries, the keys that it may see.

    The keys of a block are gathered into one tile: global tokens, the window, the random blocks. Global queries, which
    see everything, come in tiles of consecutive keys.
    """

    def __init__(self, pattern: SparsePattern, mask: AttentionMask, size: int) -> None:
        self.mask = mask
        spec, length, causal = pattern.spec, mask.keys.shape[1], mask.causal
        mutual: list[set[int]] = [set(row) for row in pattern.drawn(-(-length // spec.block)).tolist()]
        if not causal:
            for block, others in enumerate(list(map(tuple, mutual))):
                for other in others:
                    mutual[other].add(block)
        self.plan: list[tuple[slice, list[Any]]] = []
        step = max(1, size // spec.block) * spec.block  # several blocks at once: products of a few rows are slow
        for first in range(0, length, step):
            last = min(first + step, length)
            stop = last if causal else length
            if first < spec.global_tokens:
                self.plan.append((slice(first, last), [slice(a, min(a + size, stop)) for a in range(0, stop, size)]))
                continue
            ranges = [(0, spec.global_tokens), (max(0, first - spec.window + 1), last + spec.window - 1)]
            for block in range(first // spec.block, -(-last // spec.block)):
                ranges += [(other * spec.block, (other + 1) * spec.block) for other in mutual[block]]
            keys = np.unique(np.concatenate([np.arange(a, min(b, stop)) for a, b in ranges]))
            index = torch.from_numpy(keys).to(mask.keys.device)
            self.plan.append((slice(first, last), list(index.split(4 * size))))

    def __iter__(self) -> Iterator[tuple[slice, list[tuple[Any, Tensor | None]]]]:
        for rows, parts in self.plan:
            yield rows, [(keys, self.mask.tile(rows, keys)) for keys in parts]


class SparseAttention(SoftmaxAttention):
    """See the module."""

    def __init__(self, spec: Spec, dim: int) -> None:
        super().__init__(spec.attention(), dim)
        self.pattern = pattern_of(spec)
        self.score = SparseScore(self.heads, self.head_dim, self.pattern)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> LayerState:
        return kv_cache(batch, self.kv_heads, self.head_dim, dtype=dtype, device=device)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        return super().forward(x, replace(context, mask=by_document(context.mask)), state)

    def flops(self, keys: float) -> float:
        spec = self.pattern.spec
        # the past half of the window, global tokens, and blocks that were drawn, as far as there are that many keys
        seen = spec.window + spec.global_tokens + spec.random_blocks * spec.block
        return super().flops(min(keys, float(seen)))


class SparseScore(ScaledDot):
    """Scaled dot-product attention over what a pattern leaves of a mask."""

    def __init__(self, heads: int, head_dim: int, pattern: SparsePattern) -> None:
        super().__init__(heads, head_dim)
        self.pattern = pattern

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: AttentionMask,
        *,
        bias: Any = None,
        form: Any = "plain",
    ) -> Tensor:
        mask = mask.patterned(self.pattern)
        if bias is not None or form == "plain" or queries.shape[2] == 1:
            return self._plain(queries, keys, values, mask, bias)
        return flash_attention(queries, keys, values, sparse_tiles(mask, self.pattern), scale=self.scale)


def sparse_tiles(mask: AttentionMask, pattern: SparsePattern) -> Any:
    """The tiles of a mask that `pattern` narrows, made once for all layers."""
    if "sparse" not in mask.plans:
        steps = torch.arange(mask.keys.shape[1], device=mask.keys.device)[None]
        whole = torch.equal(mask.keys, steps) and torch.equal(mask.queries, steps)
        mask.plans["sparse"] = SparseTiles(pattern, mask, TILE) if whole else tiles_of(mask, TILE, TILE)
    return mask.plans["sparse"]
