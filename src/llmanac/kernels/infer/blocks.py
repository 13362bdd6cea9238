"""Quantised matrices as the kernels read them: 16 rows side by side, 4 numbers of each in turn.

    codes   [N / 16][K / 32][4-number step][16 rows][4]     bytes (w + 128) of q8_0; of 4 bits two steps share a byte
    scales  [N / 16][K / 32][16 rows]                       float16 d; of q4_1 followed by the 16 m

A block of 32 numbers is w d (q8_0), (w - 8) d (q4_0) or w d + m (q4_1), as in GGUF files. N is filled up to a multiple
of 16 with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmanac.kernels.infer.products import GROUP

ROWS = 16


@dataclass(frozen=True)
class Blocks:
    """A quantised matrix, not yet packed: numbers (N, K), scales (N, K / 32), and minima of q4_1.

    Attributes:
        kind: q8_0, q4_0 or q4_1.
        codes: int8 for q8_0, else uint8 below 16.
        d, m: float16; m is None but for q4_1.
    """

    kind: str
    codes: np.ndarray
    d: np.ndarray
    m: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """(N, K) float32."""
        codes = self.codes.reshape(*self.d.shape, GROUP).astype(np.float32)
        if self.kind == "q4_0":
            codes -= 8
        codes *= self.d.astype(np.float32)[..., None]
        if self.m is not None:
            codes += self.m.astype(np.float32)[..., None]
        return codes.reshape(self.codes.shape)

    def packed(self) -> np.ndarray:
        """The bytes of the module's layout, aligned to 64."""
        rows, width = self.codes.shape
        tiles, groups = -(-rows // ROWS), width // GROUP
        four_bits = self.kind != "q8_0"
        step = 256 if four_bits else 512
        scales = 2 if self.m is not None else 1
        out = aligned(tiles * groups * (step + 32 * scales))
        codes = out[: tiles * groups * step].reshape(tiles, groups, step)
        heads = out[tiles * groups * step :].view(np.float16).reshape(tiles, groups, scales, ROWS)
        for tile in range(tiles):
            own = slice(tile * ROWS, min((tile + 1) * ROWS, rows))
            given = np.zeros((ROWS, width), np.uint8)
            part = self.codes[own]
            given[: len(part)] = part if four_bits else part.view(np.uint8) ^ 128
            split = given.reshape(ROWS, groups, 8, 4).transpose(1, 2, 0, 3)  # group, step, row, number
            if four_bits:
                split = split[:, 0::2] | (split[:, 1::2] << 4)
            codes[tile] = split.reshape(groups, step)
            heads[tile, :, 0, : len(part)] = self.d[own].T
            if self.m is not None:
                heads[tile, :, 1, : len(part)] = self.m[own].T
        return out


def aligned(size: int) -> np.ndarray:
    """Bytes that begin at a multiple of 64."""
    out = np.zeros(size + 64, np.uint8)
    start = -out.ctypes.data % 64
    return out[start : start + size]


def quantised(weights: np.ndarray, kind: str) -> Blocks:
    """A matrix (N, K) in blocks; K a multiple of 32. Rounding to the nearest, scales as GGUF's writers choose them."""
    blocks = np.asarray(weights, np.float32).reshape(len(weights), -1, GROUP)
    if kind == "q8_0":
        d = (np.abs(blocks).max(-1) / 127).astype(np.float16)
        m, low, high, zero = None, -127, 127, 0
    elif kind == "q4_0":  # the number that is furthest from 0 becomes -8 exactly
        far = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
        d, m, low, high, zero = (far / -8).astype(np.float16), None, 0, 15, 8
    else:
        least = blocks.min(-1)
        d, m, low, high, zero = ((blocks.max(-1) - least) / 15).astype(np.float16), least.astype(np.float16), 0, 15, 0
    scale = d.astype(np.float32)
    scale[scale == 0] = 1
    moved = blocks if m is None else blocks - m.astype(np.float32)[..., None]
    codes = np.clip(np.rint(moved / scale[..., None]) + zero, low, high)
    return Blocks(kind, codes.astype(np.int8 if kind == "q8_0" else np.uint8).reshape(len(weights), -1), d, m)
