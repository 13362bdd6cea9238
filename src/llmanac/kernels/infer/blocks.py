"""From the blocks of a GGUF file to the order in which the kernels read them: 16 rows side by side, 4 numbers of each.

    file    [N][K / size] a block, as `kernels/gguf/codes.py` reads it
    codes   [N / 16][K / 32][planes of w bits: w vectors of 64 bytes, of 16 rows by 4 numbers; 8 / w steps share one]
    scales  [N / 16][K / 32][parts of 32 numbers][16 rows]     of K blocks: 8-bit s, then t where there are minima
    heads   [N / 16][K / size][16 rows]                        float16 d, then m, which is added

The numbers are the same, and take as many bytes as in the file but for scales of 6 and 4 bits, which have 8. N is filled
up to a multiple of 16 with zeros.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types these functions itself)
from __future__ import annotations

from typing import Any

import numpy as np

from llmanac.kernels.gguf.codes import codes
from llmanac.kernels.infer.products import GROUP, PACKED, PLANES, ROWS, layout
from llmanac.kernels.text import cached

PIECE = 1 << 26  # bytes of memory that matrices share


class Store:
    """Memory for many matrices, in few large pieces.

    The system gives large pieces in pages of 2 MB, of smaller ones in pages of 4 kB; then one core reads a third less
    in a second, since it waits for their addresses.
    """

    def __init__(self) -> None:
        self._left = np.zeros(0, np.uint8)

    def take(self, size: int) -> np.ndarray[Any, Any]:
        """Zeros, aligned to 64 bytes."""
        filled = -(-size // 64) * 64
        if filled > len(self._left):
            room = np.zeros(max(filled, PIECE) + 64, np.uint8)  # what nobody writes to takes no memory
            self._left = room[-room.ctypes.data % 64 :]
        found, self._left = self._left[:size], self._left[filled:]
        return found


def repacked(kind: str, data: np.ndarray[Any, Any], store: Store | None = None) -> np.ndarray[Any, Any]:
    """The rows (N, bytes of a row) of a tensor of a packed kind -> the bytes of the module, aligned to 64."""
    of = PACKED[kind]
    code, scale, head = layout(of)
    tiles, blocks = -(-len(data) // ROWS), data.shape[1] // of.bytes
    groups = blocks * of.size // GROUP
    out = (store or Store()).take(tiles * (groups * (code + scale) + blocks * head))
    first, second = tiles * groups * code, tiles * groups * (code + scale)
    made = out[:first].view(np.uint32).reshape(tiles, groups, of.bits, ROWS)
    scales = out[first:second].view(np.int8).reshape(tiles, groups, -1, ROWS)
    heads = out[second:].view(np.uint16).reshape(tiles, blocks, -1, ROWS)
    fields = of.layout.fields
    assert fields is not None
    places = np.array([fields[name][1] for name in ("d", "m") if name in fields])
    _repack(of.number, of.part, np.ascontiguousarray(data), places, np.array(PLANES[of.bits]), made, scales, heads)
    return out


def _walk(kind, part, data, places, planes, made, scales, heads):
    tiles, blocks, _, _ = heads.shape
    groups, size = made.shape[1] // blocks, data.shape[1] // blocks
    parts, steps = GROUP // part, groups * 8
    negative = 0x8000 if groups > 1 else 0  # the minima of K blocks are subtracted
    q, s, t = np.zeros(256, np.uint8), np.zeros(16, np.int8), np.zeros(16, np.int8)
    words, turned = q.view(np.uint32), np.zeros((64, ROWS), np.uint32)
    for tile in range(tiles):
        for block in range(blocks):
            for r in range(min(ROWS, len(data) - tile * ROWS)):
                own = data[tile * ROWS + r, block * size : block * size + size]
                codes(kind, own, q, s, t)
                for step in range(steps):
                    turned[step, r] = words[step]
                for i in range(len(places)):
                    bits = np.int64(own[places[i]]) | np.int64(own[places[i] + 1]) << 8
                    heads[tile, block, i, r] = bits ^ (negative if i else 0)
                for g in range(groups if scales.shape[2] else 0):
                    for p in range(parts):
                        scales[tile, block * groups + g, p, r] = s[g * parts + p]
                        if len(places) > 1:
                            scales[tile, block * groups + g, parts + p, r] = t[g * parts + p]
            for g in range(groups):
                out, first, low = made[tile, block * groups + g], 0, 0
                for width in planes:
                    mask = np.uint32((1 << width) - 1) * np.uint32(0x01010101)
                    for j in range(8):
                        for r in range(ROWS):
                            bits = np.uint32(turned[g * 8 + j, r] >> np.uint32(low)) & mask
                            out[first + j * width // 8, r] |= bits << np.uint32(j * width % 8)
                    first, low = first + width, low + width


_repack = cached(_walk, nogil=True, error_model="numpy")
