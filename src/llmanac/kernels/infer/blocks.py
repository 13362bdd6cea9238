"""From the blocks of a GGUF file to the order in which the kernels read them: 16 rows side by side, 4 numbers of each.

    file    [N][K / 32] a block: d float16, of Q4_1 m float16, then 32 bytes, or 16 bytes of two numbers each
    codes   [N / 16][K / 32][4-number step][16 rows][4]     bytes q + 128 of Q8_0; of 4 bits two steps share a byte
    scales  [N / 16][K / 32][16 rows]                       float16 d; of Q4_1 followed by the 16 m

The numbers are the same. N is filled up to a multiple of 16 with zeros.
"""

# mypy: disable-error-code="no-untyped-def"
# (numba types these functions itself)
from __future__ import annotations

from typing import Any

import numpy as np

from llmanac.kernels.infer.products import GROUP
from llmanac.kernels.text import cached

ROWS = 16
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
    """The rows (N, bytes of a row) of a q8_0, q4_0 or q4_1 tensor -> the bytes of the module, aligned to 64."""
    heads = 4 if kind == "q4_1" else 2
    step = 512 if kind == "q8_0" else 256
    groups, tiles = data.shape[1] // (heads + step // 16), -(-len(data) // ROWS)
    out = (store or Store()).take(tiles * groups * (step + 16 * heads))
    codes, scales = out[: tiles * groups * step], out[tiles * groups * step :]
    _repack(np.ascontiguousarray(data), heads, codes.reshape(tiles, groups, step), scales)
    return out


def _walk(data, heads, codes, scales):
    _, groups, step = codes.shape
    size = heads + step // ROWS
    for row in range(len(data)):
        tile, r = row // ROWS, row % ROWS
        for g in range(groups):
            block, made = data[row, g * size : (g + 1) * size], codes[tile, g]
            begin = (tile * groups + g) * ROWS * heads
            for i in range(heads):
                scales[begin + i // 2 * 2 * ROWS + 2 * r + i % 2] = block[i]
            qs = block[heads:]
            if step == 512:
                for k in range(GROUP):
                    made[k // 4 * 64 + r * 4 + k % 4] = qs[k] ^ 128
            else:
                for k in range(GROUP):
                    q = np.int64(qs[k % 16]) >> (k // 16 * 4) & 15
                    made[k // 8 * 64 + r * 4 + k % 4] |= q << (k % 8 // 4 * 4)


_repack = cached(_walk, nogil=True)
