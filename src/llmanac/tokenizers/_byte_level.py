"""The alphabet in which byte-level vocabularies are written down: each byte as one printable character (GPT-2).

Bytes that are printable in Latin-1 keep their character; the others take the characters from U+0100 on, in order.
"""

import itertools
from collections.abc import Iterable

import numpy as np

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)}
BYTES = {character: byte for byte, character in CHARACTERS.items()}
ALPHABET = sorted(BYTES)  # the order in which a trainer numbers single bytes


class _ByteCodes(dict[int, int]):
    """Code points of the alphabet -> bytes; all others -> one that is no byte."""

    def __missing__(self, point: int) -> int:
        return 0xFFFF


_CODES = _ByteCodes({ord(character): byte for character, byte in BYTES.items()})
_TABLE = np.array([BYTES.get(chr(point), -1) for point in range(max(_CODES) + 2)], np.int16)  # the last for all others


def written(data: bytes) -> str:
    """Bytes as a vocabulary writes them."""
    return data.decode("latin-1").translate(CHARACTERS)


def read(text: str) -> bytes | None:
    """The bytes of a vocabulary's entry; None where a character is not of the alphabet."""
    try:
        return text.translate(_CODES).encode("latin-1")
    except UnicodeEncodeError:
        return None


def read_all(texts: Iterable[str]) -> list[bytes | None]:
    """What `read` gives for each text; many at once take a fifth of the time."""
    given = list(texts)
    points = np.frombuffer("".join(given).encode("utf-32-le", "surrogatepass"), np.uint32)
    codes, ends = _TABLE[np.minimum(points, len(_TABLE) - 1)], np.cumsum([0, *map(len, given)])
    data = codes.astype(np.uint8).tobytes()
    found: list[bytes | None] = [data[start:end] for start, end in itertools.pairwise(ends.tolist())]
    for place in np.flatnonzero(codes < 0):
        found[np.searchsorted(ends, place, "right") - 1] = None
    return found
