"""The alphabet in which byte-level vocabularies are written down: each byte as one printable character (GPT-2).

Bytes that are printable in Latin-1 keep their character; the others take the characters from U+0100 on, in order.
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)}
BYTES = {character: byte for byte, character in CHARACTERS.items()}
ALPHABET = sorted(BYTES)  # the order in which a trainer numbers single bytes


class _Codes(dict[int, int]):
    """Code points of the alphabet -> bytes; all others -> one that is no byte."""

    def __missing__(self, point: int) -> int:
        return 0xFFFF


_CODES = _Codes({ord(character): byte for character, byte in BYTES.items()})


def written(data: bytes) -> str:
    """Bytes as a vocabulary writes them."""
    return data.decode("latin-1").translate(CHARACTERS)


def read(text: str) -> bytes | None:
    """The bytes of a vocabulary's entry; None where a character is not of the alphabet."""
    try:
        return text.translate(_CODES).encode("latin-1")
    except UnicodeEncodeError:
        return None
