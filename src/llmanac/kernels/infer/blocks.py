"""From the blocks of a file to the order in which the kernels read them: 16 rows side by side, 4 numbers of each.

    file    [N][K / size] a block, as `kernels/gguf/codes.py` reads it
    codes   [N / 16][K / 32][planes of w bits: w vectors of 64 bytes, of 16 rows by 4 numbers; 8 / w steps share one]
    scales  [N / 16][K / part][16 rows]                        of K blocks: 8-bit s, then t where there are minima
    heads   [N / 16][K / size][16 rows]                        d, then m, which is added: float16, float32 of a folder

The numbers are the same, and take as many bytes as in the file but for scales of 6 and 4 bits, which have 8. N is
filled up to a multiple of 16 with zeros.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
# (numba types these functions itself)

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from llmanac.kernels.gguf.codes import codes
from llmanac.kernels.infer.kinds import PACKED
from llmanac.kernels.infer.machine import I32, ahead, constant, literal, load, store, vector
from llmanac.kernels.infer.products import GROUP, PLANES, ROWS, layout
from llmanac.kernels.text import cached, inner

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


def repacked(
    kind: str, data: np.ndarray[Any, Any], store: Store | None = None, read: Callable[[], None] = lambda: None
) -> np.ndarray[Any, Any]:
    """The rows (N, bytes of a row) of a tensor of a packed kind -> the bytes of the module, aligned to 64.

    Args:
        read: called whenever some megabytes of rows were read, that their memory may be given back.
    """
    of = PACKED[kind]
    code, scale, head = layout(of)
    tiles, blocks = -(-len(data) // ROWS), data.shape[1] // of.bytes
    groups = blocks * of.size // GROUP
    out = (store or Store()).take(tiles * (groups * (code + scale) + blocks * head))
    first, second = tiles * groups * code, tiles * groups * (code + scale)
    made = out[:first].view(np.uint32).reshape(tiles, groups, of.bits, ROWS)
    scales = out[first:second].view(np.int8).reshape(tiles, -1, 1 + of.minimum, ROWS)
    heads = out[second:].view(f"u{of.layout['d'].itemsize}").reshape(tiles, blocks, -1, ROWS)
    walk, step = _repacking(kind), max(1, PIECE // 4 // (ROWS * data.shape[1]))
    for at in range(0, tiles, step):
        own = slice(at, at + step)
        walk(np.ascontiguousarray(data[at * ROWS : (at + step) * ROWS]), made[own], scales[own], heads[own])
        read()
    return out


@intrinsic(prefer_literal=True)
def _planes(typing_context, bits, steps, out):
    """Write the 8 steps of a group (8, 16 rows) of 4 bytes each as planes; `products.py` reads them."""
    bits_ = literal(bits)

    def generate(context, builder, signature, places):
        words, low, at = [load(builder, vector(I32), ahead(builder, places[1], 64 * j)) for j in range(8)], 0, 0
        for width in PLANES[bits_]:
            mask = constant(I32, ((1 << width) - 1) * 0x01010101)
            for first in range(0, 8, 8 // width):
                made = constant(I32, 0)
                for j in range(8 // width):
                    own = builder.and_(builder.lshr(words[first + j], constant(I32, low)), mask)
                    made = builder.or_(made, builder.shl(own, constant(I32, j * width)))
                store(builder, made, ahead(builder, places[2], 64 * at))
                at += 1
            low += width
        return context.get_dummy_value()

    return types.void(bits, types.int64, types.int64), generate


@inner
def _number(data, at, width):
    """`width` bytes as one whole number."""
    made = np.int64(0)
    for i in range(width):
        made |= np.int64(data[at + i]) << (8 * i)
    return made


@functools.cache
def _repacking(kind):
    of = PACKED[kind]
    fields: Any = of.layout.fields
    number, bits, size, nbytes, parts = of.number, of.bits, of.size, of.bytes, of.size // of.part
    d_at, m_at = fields["d"][1], fields["m"][1] if of.minimum else -1
    width, scaled = of.layout["d"].itemsize, of.part < of.size
    negative = 0x8000 if scaled else 0  # the minima of K blocks are subtracted

    def walk(data, made, scales, heads):
        blocks = heads.shape[1]
        q, s, t = np.zeros(256, np.uint8), np.zeros(16, np.int8), np.zeros(16, np.int8)
        words, wide, turned = q.view(np.uint32), q.view(np.uint64), np.zeros((64, ROWS), np.uint32)
        for tile in range(len(made)):
            for block in range(blocks):
                for r in range(min(ROWS, len(data) - tile * ROWS)):
                    own = data[tile * ROWS + r, block * nbytes : block * nbytes + nbytes]
                    codes(number, own, q, wide, s, t)
                    for step in range(size // 4):
                        turned[step, r] = words[step]
                    heads[tile, block, 0, r] = _number(own, d_at, width)
                    if m_at >= 0:
                        heads[tile, block, 1, r] = _number(own, m_at, width) ^ negative
                    if scaled:
                        for p in range(parts):
                            scales[tile, block * parts + p, 0, r] = s[p]
                            if m_at >= 0:
                                scales[tile, block * parts + p, 1, r] = t[p]
                for g in range(size // GROUP):
                    out = made[tile, block * (size // GROUP) + g]
                    _planes(bits, np.int64(turned[g * 8 :].ctypes.data), np.int64(out.ctypes.data))

    return cached(walk, nogil=True, error_model="numpy")
