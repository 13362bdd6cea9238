"""The kinds of packed matrices that products know: blocks of GGUF files, and blocks made of quantized folders.

A folder's matrix has codes, a scale for some numbers of a row and perhaps a number that is added. Its blocks are

    x = d v(q) + m      q of one byte each, d and m float32, 32, 64, 128 or 256 numbers of a row

whatever layout the codes had and however far a scale of the folder reaches; `blocks.py` puts either in one order.
"""

import math
from typing import Any

import numpy as np

from llmanac.kernels.gguf.blocks import KINDS, Array, Kind

LEAST, SIZES = 32, (32, 64, 128, 256)
# levels of NF4 times 112, the factor below 127 for which their roundings are smallest: 0.0017 of the largest, rms
NF4 = (-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112)
# bits of a code, what stands for 0, whether a number is added, what codes stand for
CODES: dict[str, tuple[int, int, bool, tuple[int, ...]]] = {
    "int8": (8, 128, False, ()),
    "int4": (4, 8, False, ()),
    "int4-zero": (4, 0, True, ()),
    "nf4": (4, 0, False, NF4),
    "ternary": (2, 1, False, ()),
}


def _made(name: str, number: int, size: int) -> Kind:
    bits, offset, added, table = CODES[name]
    fields: list[Any] = [("q", "u1", size), ("d", "<f4"), *([("m", "<f4")] if added else [])]
    return Kind(f"{name}-{size}", number, size, np.dtype(fields), bits, offset, size, table)


FOLDERS = {
    (name, size): _made(name, 256 + len(SIZES) * i + j, size)
    for i, name in enumerate(CODES)
    for j, size in enumerate(SIZES)
}
PACKED = {
    kind.name.lower(): kind for kind in (*KINDS.values(), *FOLDERS.values()) if kind.bits and kind.name != "MXFP4"
}
BY_NUMBER = {kind.number: kind for kind in PACKED.values()}


def reach(columns: int, group: int) -> int:
    """Numbers of a block of which each lies in one group of columns; 0 where there is none of 32 or more."""
    shared = math.gcd(columns, group)
    size = min(shared & -shared, SIZES[-1])
    return size if size >= LEAST else 0


def blocks(name: str, codes: Array, scale: Array, added: Array | None = None) -> tuple[str, Array]:
    """The kind's name and the blocks (N, bytes of a row) of codes (N, K), with a scale (N, K / size) for each block."""
    size = codes.shape[1] // scale.shape[1]
    kind = FOLDERS[name, size]
    made = np.empty(scale.shape, kind.layout)
    made["q"], made["d"] = codes.reshape(*scale.shape, size), scale
    if added is not None:
        made["m"] = added
    return kind.name, made.view(np.uint8).reshape(len(codes), -1)


def rounded(numbers: Array) -> tuple[str, Array]:
    """Numbers (N, K) as blocks of 32 integers of 8 bits."""
    parts = numbers.reshape(len(numbers), -1, LEAST)
    scale = np.abs(parts).max(-1) / 127
    codes = np.rint(parts / np.where(scale > 0, scale, 1)[..., None]) + 128
    return blocks("int8", codes.astype(np.uint8).reshape(numbers.shape), scale)
