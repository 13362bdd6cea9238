"""The kinds of weights in a GGUF file: how each packs a row of numbers into blocks, and back.

A block has a scale d (and a minimum m) for its numbers, of which small whole numbers q are kept. Blocks of 32:

    Q4_0, Q5_0, Q8_0:   x = d (q - offset)          Q4_1, Q5_1:   x = d q + m

A K block has 256 numbers in sub-blocks, whose scales are whole numbers themselves: with s and t of 6 bits in sub-blocks
of 32, `Q4_K, Q5_K: x = (d s) q - (m t)`; with s of 8 bits in sub-blocks of 16, `Q6_K: x = (d s) (q - 32)`.

All arithmetic is in float32 and in the order of ggml's reference, so the numbers are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PIECE = 1 << 16  # numbers that are unpacked or packed at a time: they stay in the cache


def _nibbles(packed: Array) -> Array:
    """(n, b) bytes -> (n, 2b): the lower halves of all, then the upper ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _five(blocks: Array) -> Array:
    """The numbers of 5 bits: four in `qs`, the fifth in `qh`."""
    fifth = (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return _nibbles(blocks["qs"]) | (fifth << 4).astype(np.uint8)


def _single(name: str, blocks: Array) -> Array:
    return blocks[name].astype(np.float32)[:, None]


def _symmetric(numbers: Callable[[Array], Array], offset: int) -> Callable[[Array], Array]:
    return lambda blocks: _single("d", blocks) * (numbers(blocks).astype(np.float32) - np.float32(offset))


def _affine(numbers: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda blocks: _single("d", blocks) * numbers(blocks).astype(np.float32) + _single("m", blocks)


def _four(blocks: Array) -> Array:
    return _nibbles(blocks["qs"])


def _k_nibbles(blocks: Array) -> Array:
    """(n, 8, 32): sub-blocks in pairs, one in the lower halves of 32 bytes, the other in the upper ones."""
    qs = blocks["qs"].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8)[:, None]
    return (qs & 15).reshape(-1, 8, 32)


def _k_five(blocks: Array) -> Array:
    fifth = (blocks["qh"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _k_nibbles(blocks) | (fifth << 4)


def _k_affine(numbers: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def unpack(blocks: Array) -> Array:
        # 12 bytes hold 8 scales and 8 minima of 6 bits: the first four of each whole, of the others 4 bits in the last
        # four bytes and 2 bits on top of the first ones
        low, mid, high = (blocks["scales"].reshape(-1, 3, 4)[:, i] for i in range(3))
        scales = np.concatenate([low & 63, (high & 15) | ((low >> 2) & 48)], axis=-1).astype(np.float32)
        minima = np.concatenate([mid & 63, (high >> 4) | ((mid >> 2) & 48)], axis=-1).astype(np.float32)
        d, m = (_single("d", blocks) * scales)[..., None], (_single("m", blocks) * minima)[..., None]
        return d * numbers(blocks).astype(np.float32) - m

    return unpack


def _q6_k(blocks: Array) -> Array:
    low = blocks["ql"].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None]
    high = blocks["qh"].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    numbers = (low & 15).reshape(-1, 8, 32) | ((high & 3).reshape(-1, 8, 32) << 4)
    scales = (_single("d", blocks) * blocks["scales"].astype(np.float32))[..., None]
    return scales * (numbers.reshape(-1, 16, 16).astype(np.float32) - np.float32(32))


def _bf16(blocks: Array) -> Array:
    return (blocks.astype(np.uint32) << 16).view(np.float32)


def _inverse(d: Array) -> Array:
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def _pack_q8_0(x: Array, out: Array) -> None:
    d = np.abs(x).max(1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(d)
    whole = np.trunc(scaled)
    out["qs"] = whole + np.trunc(2 * (scaled - whole))  # halves away from zero, as C's roundf
    out["d"] = d[:, 0]


def _pack_q4_0(x: Array, out: Array) -> None:
    d = np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1) / np.float32(-8)
    _pack_nibbles(x * _inverse(d) + np.float32(8.5), out)
    out["d"] = d[:, 0]


def _pack_q4_1(x: Array, out: Array) -> None:
    low = x.min(1, keepdims=True)
    d = (x.max(1, keepdims=True) - low) / np.float32(15)
    _pack_nibbles((x - low) * _inverse(d) + np.float32(0.5), out)
    out["d"], out["m"] = d[:, 0], low[:, 0]


def _pack_nibbles(numbers: Array, out: Array) -> None:
    whole = np.minimum(numbers, 15).astype(np.uint8)
    out["qs"] = whole[:, :16] | (whole[:, 16:] << 4)


@dataclass(frozen=True)
class Kind:
    """How numbers are stored.

    Attributes:
        number: ggml's number of the type; size: of a block in numbers; layout: of a block in bytes.
        unpack: an array of blocks -> their numbers in float32, `size` for each block, in any shape.
        pack: `(numbers (n, size) float32, n blocks to fill)`; None where a kind is only read.
    """

    name: str
    number: int
    size: int
    layout: np.dtype[Any]
    unpack: Callable[[Array], Array]
    pack: Callable[[Array, Array], None] | None = None

    @property
    def bytes(self) -> int:
        """Of a block."""
        return self.layout.itemsize

    def float32(self, data: Array) -> Array:
        """Bytes (..., row bytes) -> numbers (..., row) in float32."""
        blocks = np.ascontiguousarray(data).reshape(-1).view(self.layout)
        out = np.empty((len(blocks), self.size), np.float32)
        step = max(1, PIECE // self.size)
        with np.errstate(all="ignore"):  # a damaged file's scales may be NaN; who reads the weights refuses them
            for at in range(0, len(blocks), step):
                piece = blocks[at : at + step]
                out[at : at + step] = self.unpack(piece).reshape(len(piece), self.size)
        return out.reshape(*data.shape[:-1], -1)

    def packed(self, numbers: Array) -> Array:
        """Numbers (..., row) -> bytes (..., row bytes) as ggml's reference packs them; the inverse of `float32`."""
        assert self.pack is not None
        x = np.ascontiguousarray(numbers, np.float32).reshape(-1, self.size)
        blocks = np.empty(len(x), self.layout)
        step = max(1, PIECE // self.size)
        with np.errstate(all="ignore"):
            for at in range(0, len(x), step):
                self.pack(x[at : at + step], blocks[at : at + step])
        return blocks.view(np.uint8).reshape(*numbers.shape[:-1], -1)


def _plain(x: Array, out: Array) -> None:
    out[:] = x[:, 0]


def _block(**fields: tuple[str, int] | str) -> np.dtype[Any]:
    return np.dtype([(name, *((of,) if isinstance(of, str) else of)) for name, of in fields.items()])


_AS_FLOAT32: Callable[[Array], Array] = lambda blocks: blocks.astype(np.float32)  # noqa: E731
_SCALES = ("u1", 12)
KINDS = {
    kind.name: kind
    for kind in (
        Kind("F32", 0, 1, np.dtype("<f4"), _AS_FLOAT32, _plain),
        Kind("F16", 1, 1, np.dtype("<f2"), _AS_FLOAT32, _plain),
        Kind("Q4_0", 2, 32, _block(d="<f2", qs=("u1", 16)), _symmetric(_four, 8), _pack_q4_0),
        Kind("Q4_1", 3, 32, _block(d="<f2", m="<f2", qs=("u1", 16)), _affine(_four), _pack_q4_1),
        Kind("Q5_0", 6, 32, _block(d="<f2", qh="<u4", qs=("u1", 16)), _symmetric(_five, 16)),
        Kind("Q5_1", 7, 32, _block(d="<f2", m="<f2", qh="<u4", qs=("u1", 16)), _affine(_five)),
        Kind("Q8_0", 8, 32, _block(d="<f2", qs=("i1", 32)), _symmetric(lambda blocks: blocks["qs"], 0), _pack_q8_0),
        Kind("Q4_K", 12, 256, _block(d="<f2", m="<f2", scales=_SCALES, qs=("u1", 128)), _k_affine(_k_nibbles)),
        Kind(
            "Q5_K", 13, 256, _block(d="<f2", m="<f2", scales=_SCALES, qh=("u1", 32), qs=("u1", 128)), _k_affine(_k_five)
        ),
        Kind("Q6_K", 14, 256, _block(ql=("u1", 128), qh=("u1", 64), scales=("i1", 16), d="<f2"), _q6_k),
        Kind("BF16", 30, 1, np.dtype("<u2"), _bf16),
    )
}
BY_NUMBER = {kind.number: kind for kind in KINDS.values()}
