"""The kinds of weights in a GGUF file: how each packs a row of numbers into blocks, and back.

A block has a scale d (and a minimum m) for its numbers, of which small whole numbers q are kept. Blocks of 32:

    Q4_0, Q5_0, Q8_0:   x = d (q - offset)     Q4_1, Q5_1:   x = d q + m     IQ4_NL, MXFP4:   x = d v(q), v a table

A K block has 256 numbers in parts, whose scales are whole numbers themselves. With parts of 32 `Q4_K, Q5_K:
x = (d s) q - (m t)` and `IQ4_XS: x = (d s) v(q)`, with parts of 16 `Q2_K: x = (d s) q - (m t)` and `Q3_K, Q6_K:
x = (d s) (q - offset)`. `codes.py` has the bits.

All arithmetic is in float32 and in the order of ggml's reference, so the numbers are equal to the last bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kind:
    """How numbers are stored.

    Attributes:
        number: ggml's number of the type; size: of a block in numbers; layout: of a block in bytes.
        bits: of a code; offset: of what stands for 0; table: whole numbers that codes stand for, in place of an offset.
        part: how many numbers of a block share a scale.
    """

    name: str
    number: int
    size: int
    layout: np.dtype[Any]
    bits: int = 0
    offset: int = 0
    part: int = 32
    table: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Of a block."""
        return self.layout.itemsize

    @property
    def minimum(self) -> bool:
        """Whether a block has a minimum beside its scale."""
        return "m" in (self.layout.names or ())

    def blocks(self, data: Array) -> Array:
        """Bytes (..., row bytes) -> blocks (n,), with the fields of the layout."""
        return np.ascontiguousarray(data).reshape(-1).view(self.layout)

    def scales(self, blocks: Array) -> tuple[Array, Array]:
        """d and m of blocks, of which `codes.py` says what they are, in float32; 0 for no minimum."""
        if self.name == "MXFP4":  # half of 2^(e - 127): the bits of its table are twice the numbers
            e = blocks["e"].astype(np.uint32)
            d = np.where(e < 2, 0x200000 << e, (e - 1) << 23).astype(np.uint32).view(np.float32)
            return d, np.zeros(len(blocks), np.float32)
        d = blocks["d"].astype(np.float32)
        m = blocks["m"].astype(np.float32) if self.minimum else np.zeros(len(blocks), np.float32)
        return d, m if self.part < self.size else -m

    def float32(self, data: Array) -> Array:
        """Bytes (..., row bytes) -> numbers (..., row) in float32."""
        blocks = self.blocks(data)
        if self.name == "BF16":
            out = (blocks.astype(np.uint32) << 16).view(np.float32)
        elif self.size == 1:
            out = blocks.astype(np.float32)
        else:
            from llmanac.kernels.gguf.codes import numbers

            out, (d, m) = np.empty((len(blocks), self.size), np.float32), self.scales(blocks)
            values = np.array(self.table or range(-self.offset, 256 - self.offset), np.float32)
            numbers(self.number, blocks.view(np.uint8).reshape(len(blocks), -1), d, m, self.part, values, out)
        return out.reshape(*data.shape[:-1], -1)

    def finite(self, data: Array) -> bool:
        """Whether all numbers of these bytes are finite: the scales tell."""
        blocks = self.blocks(data)
        if self.layout.names is None or (self.name == "MXFP4" and blocks["e"].max(initial=0) > 252):
            return bool(np.isfinite(self.float32(data)).all())
        found = [blocks[name].view("<u2") for name in ("d", "m") if name in self.layout.names]
        return not any(((of & 0x7C00) == 0x7C00).any() for of in found)

    def packed(self, numbers: Array, importance: Array | None = None) -> Array:
        """Numbers (..., row) -> bytes (..., row bytes), by the search of `pack.py`; for the kinds in `WRITTEN`.

        Args:
            importance: (row,), of what is multiplied with each column; by default the same for all.
        """
        x = np.ascontiguousarray(numbers, np.float32).reshape(-1, self.size)
        blocks = np.zeros(len(x), self.layout)
        if self.name == "BF16":
            bits = x[:, 0].view(np.uint32)
            blocks[:] = bits + (0x7FFF + (bits >> 16 & 1)) >> 16  # to the nearest, halves to even
        elif self.size == 1:
            blocks[:] = x[:, 0]
        else:
            from llmanac.kernels.gguf import pack

            weights = np.ones((1, self.size)) if importance is None else importance.reshape(-1, self.size)
            weights = (weights / (weights.mean() or 1)).astype(np.float32)
            minimum = pack.NONE if not self.minimum else pack.FREE if self.size == self.part else pack.POSITIVE
            limits = np.array((0, 63) if self.minimum else (-128, 127), np.float32)
            least, most = np.float32(-self.offset), np.float32((1 << self.bits) - 1 - self.offset)
            d, m = np.empty((2, len(x)), np.float32)
            out = blocks.view(np.uint8).reshape(len(x), -1)
            pack.pack(self.number, x, weights, self.part, least, most, minimum, limits, out, d, m)
            blocks["d"] = d
            if self.minimum:
                blocks["m"] = m if self.size > self.part else -m
        return blocks.view(np.uint8).reshape(*numbers.shape[:-1], -1)


def _block(**fields: tuple[str, int] | str) -> np.dtype[Any]:
    return np.dtype([(name, *((of,) if isinstance(of, str) else of)) for name, of in fields.items()])


_F16, _TWELVE = "<f2", ("u1", 12)
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_Q4_K, _Q5_K = (_block(d=_F16, m=_F16, scales=_TWELVE, qs=("u1", n)) for n in (128, 160))
_SIXTEEN = ("u1", 16)
KINDS = {
    kind.name: kind
    for kind in (
        Kind("F32", 0, 1, np.dtype("<f4")),
        Kind("F16", 1, 1, np.dtype(_F16)),
        Kind("Q4_0", 2, 32, _block(d=_F16, qs=_SIXTEEN), 4, 8),
        Kind("Q4_1", 3, 32, _block(d=_F16, m=_F16, qs=_SIXTEEN), 4),
        Kind("Q5_0", 6, 32, _block(d=_F16, qs=("u1", 20)), 5, 16),
        Kind("Q5_1", 7, 32, _block(d=_F16, m=_F16, qs=("u1", 20)), 5),
        Kind("Q8_0", 8, 32, _block(d=_F16, qs=("i1", 32)), 8, 128),
        Kind("Q2_K", 10, 256, _block(scales=_SIXTEEN, qs=("u1", 64), d=_F16, m=_F16), 2, part=16),
        Kind("Q3_K", 11, 256, _block(high=("u1", 32), qs=("u1", 64), scales=_TWELVE, d=_F16), 3, 4, part=16),
        Kind("Q4_K", 12, 256, _Q4_K, 4),
        Kind("Q5_K", 13, 256, _Q5_K, 5),
        Kind("Q6_K", 14, 256, _block(ql=("u1", 128), qh=("u1", 64), scales=_SIXTEEN, d=_F16), 6, 32, part=16),
        Kind("IQ4_NL", 20, 32, _block(d=_F16, qs=_SIXTEEN), 4, table=_IQ4),
        Kind("IQ4_XS", 23, 256, _block(d=_F16, scales=("u1", 6), qs=("u1", 128)), 4, table=_IQ4),
        Kind("BF16", 30, 1, np.dtype("<u2")),
        Kind("MXFP4", 39, 32, _block(e="u1", qs=_SIXTEEN), 4, table=_FP4),
    )
}
WRITTEN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
BY_NUMBER = {kind.number: kind for kind in KINDS.values()}
