"""The units (words, mostly) of a text by a table of what each character is: the plain form of `minhash.units`."""

import numpy as np

from llmanac.kernels.dedup import minhash


def with_bytes(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(by_byte (256,), by_code_point (0x110000,))` of a table by code point, as the kernels take them."""
    by_byte = np.full(256, minhash.LONGER, np.uint8)
    by_byte[:128] = classes[:128]
    return by_byte, classes


def plain_units(text: str, classes: np.ndarray) -> list[str]:
    """The units of a text: runs of JOINED characters, and each ALONE one by itself."""
    found: list[str] = []
    joined = False
    for character in text:
        kind = classes[ord(character)]
        if joined and kind == minhash.JOINED:
            found[-1] += character
        elif kind != minhash.APART:
            found.append(character)
        joined = kind == minhash.JOINED
    return found
