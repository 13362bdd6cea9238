"""A mask in tiles: for each block of queries, the blocks of keys that any of them sees.

What can be skipped is decided from the smallest and largest positions of a block, so nothing of size T S is built. A
tile whose keys are all seen by all of its queries needs no mask; masks of the others are made when they are read.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from llmanac.kernels.nn.uncompiled import uncompiled
from llmanac.models.masks import AttentionMask, MaskRule

Bounds = tuple[int, int]
Tile = tuple[slice, Tensor | None]


class Tiles:
    """Iterated: a range of queries, and its tiles: each a range of keys with its mask (B or 1, 1, t, s), or None.

    Args:
        mask: of queries and keys at any positions.
        rows, columns: queries and keys of a tile.
    """

    def __init__(self, mask: AttentionMask, rows: int, columns: int) -> None:
        self.mask = mask
        self._bands: dict[tuple[int, int, int], Tensor] = {}
        queries, keys = _bounds(mask.queries, rows), _bounds(mask.keys, columns)
        segments = None if mask.rule is None else mask.rule.segments
        soft_tokens = 0 if mask.rule is None else mask.rule.soft_tokens
        documents: list[list[Bounds]] = []
        if segments is not None:
            asking = mask.rule.asking if mask.rule is not None and mask.rule.asking is not None else segments
            documents = [_bounds(asking, rows), _bounds(F.pad(segments, (soft_tokens, 0)), columns)]
        length, total = mask.queries.shape[1], mask.keys.shape[1]
        self.plan: list[tuple[slice, list[tuple[slice, int | None]]]] = []
        for i, q in enumerate(queries):
            tiles: list[tuple[slice, int | None]] = []
            for j, k in enumerate(keys):
                if documents and j * columns >= soft_tokens and not _meet(documents[0][i], documents[1][j]):
                    continue
                kind = "some" if mask.rule is None else _seen(mask.rule, q, k)
                if kind != "none":
                    # tiles of consecutive positions with the same offset have the same mask
                    offset = None if kind == "all" else q[0] - k[0]
                    tiles.append((slice(j * columns, min((j + 1) * columns, total)), offset))
            self.plan.append((slice(i * rows, min((i + 1) * rows, length)), tiles))
        shared = mask.queries.shape[0] == mask.keys.shape[0] == 1
        spans = [(queries, mask.queries), (keys, mask.keys)]
        regular = shared and all(bool((x[:, 1:] - x[:, :-1] == 1).all()) for _, x in spans)
        self._repeats = regular and mask.rule is not None and mask.rule.positional

    def __iter__(self) -> Iterator[tuple[slice, list[Tile]]]:
        for rows, tiles in self.plan:
            yield rows, [(columns, self._mask(rows, columns, offset)) for columns, offset in tiles]

    def _mask(self, rows: slice, columns: slice, offset: int | None) -> Tensor | None:
        if offset is None:
            return None
        if not self._repeats:
            return self.mask.tile(rows, columns)
        key = (offset, rows.stop - rows.start, columns.stop - columns.start)
        if key not in self._bands:
            self._bands[key] = self.mask.tile(rows, columns)
        return self._bands[key]


@uncompiled  # reads positions
def tiles_of(mask: AttentionMask, rows: int, columns: int) -> Tiles:
    """The tiles of a mask, made once for all layers."""
    if (rows, columns) not in mask.plans:
        mask.plans[rows, columns] = Tiles(mask, rows, columns)
    found: Tiles = mask.plans[rows, columns]
    return found


def _bounds(x: Tensor, size: int) -> list[Bounds]:
    """The smallest and largest value of each `size` columns of (B, T)."""
    return [(int(part.min()), int(part.max())) for part in x.split(size, dim=1)]


def _meet(a: Bounds, b: Bounds) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _seen(rule: MaskRule, q: Bounds, k: Bounds) -> str:
    """Whether queries at positions within `q` see none, some or all of the keys within `k`."""
    (first, last), (start, stop) = q, k
    future = start > last
    if rule.kind == "prefix":
        assert rule.prefix is not None
        future = future and start >= int(rule.prefix.max())
    if stop < 0 or (rule.kind != "bidirectional" and future):
        return "none"
    if rule.window is not None and (first - stop >= rule.window or start - last >= rule.window):
        return "none"
    near = rule.window is None or (last - start < rule.window and stop - first < rule.window)
    past = rule.kind == "bidirectional" or stop <= first
    return "all" if rule.positional and start >= 0 and near and past else "some"
