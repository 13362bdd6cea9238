"""From texts to shingles, their hashes and MinHash signatures: the plain form, and the fast one that must equal it."""

import functools
import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np

from llmanac.kernels import unicode
from llmanac.kernels.dedup import minhash as kernel
from llmanac.kernels.dedup.units import plain_units, with_bytes

Unit = Literal["words", "spaced", "characters"]
Letters = Literal["as-is", "lower", "nfkc-lower"]
Hashing = Literal["fast", "sha1"]
PIECE = 8192  # shingle hashes asked for at a time


@functools.cache
def unit_tables(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """`(by_byte (256,), by_code_point (0x110000,))`: what each character is to the splitter."""
    if unit == "characters":
        classes = np.full(unicode.CODE_POINTS, kernel.ALONE, np.uint8)
    elif unit == "spaced":
        classes = np.full(unicode.CODE_POINTS, kernel.JOINED, np.uint8)
        classes[(unicode.table() & unicode.SPACE_FLAG) != 0] = kernel.APART
        classes[0x1C:0x20] = kernel.APART  # separators to str.split, though not White_Space
    else:
        classes = np.full(unicode.CODE_POINTS, kernel.APART, np.uint8)
        for category in ("L", "N", "M", "Pc"):
            classes[unicode.in_categories(category)] = kernel.JOINED
    return with_bytes(classes)


def units_of(text: str, unit: Unit) -> list[str]:
    """The units of a text, the plain way."""
    return plain_units(text, unit_tables(unit)[1])


class Signer:
    """Turns texts into signatures.

    Args:
        permutations: values a signature has.
        width: units a shingle has.
        seed: another seed draws other permutations; they are datasketch's for the same seed.
    """

    def __init__(
        self, permutations: int, width: int, unit: Unit, letters: Letters, hashing: Hashing, seed: int
    ) -> None:
        self.permutations, self.width, self.unit = permutations, width, unit
        self.letters, self.hashing = letters, hashing
        draws = np.random.RandomState(seed)
        self.a = draws.randint(0, 1 << 31, permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self.b = draws.randint(0, 1 << 32, permutations, dtype=np.uint32)
        self._power = np.uint64(pow(int(kernel.MULTIPLIER), width, 1 << 64))

    def prepared(self, text: str) -> str:
        """The text with its letters as they are compared."""
        if self.letters == "nfkc-lower" and not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        return text if self.letters == "as-is" else text.lower()

    def shingles(self, text: str) -> list[str]:
        """The shingles in order, repeats included; words are joined by one space, characters by nothing."""
        units = units_of(self.prepared(text), self.unit)
        between = "" if self.unit == "characters" else " "
        last = max(1, len(units) - self.width + 1) if units else 0
        return [between.join(units[i : i + self.width]) for i in range(last)]

    def _bytes(self, text: str) -> bytes:
        return self.prepared(text).encode("utf-8", "surrogatepass")

    def hashes(self, text: str) -> np.ndarray:
        """(shingles,) uint64 hashes in order, repeats included. SHA-1's are the first four bytes of the digest."""
        if self.hashing == "sha1":
            data = [hashlib.sha1(s.encode("utf-8", "surrogatepass")).digest()[:4] for s in self.shingles(text)]
            return np.frombuffer(b"".join(data), "<u4").astype(np.uint64)
        buffer = np.frombuffer(self._bytes(text), np.uint8)
        state, parts, at = np.zeros(kernel.RING + self.width, np.uint64), [], 0
        while at < len(buffer):
            out = np.empty(PIECE, np.uint64)
            at, count = kernel.next_shingles(
                buffer, at, len(buffer), *unit_tables(self.unit), self.width, self._power, state, out
            )
            parts.append(out[:count])
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def hash32(self, text: str) -> np.ndarray:
        """(shingles,) uint32: what the permutations are applied to; datasketch's `hashfunc` would give these."""
        hashes = self.hashes(text)
        return (hashes if self.hashing == "sha1" else hashes >> np.uint64(32)).astype(np.uint32)

    def sets(self, text: str) -> np.ndarray:
        """The distinct shingle hashes, sorted: the set whose Jaccard similarity is measured."""
        return np.unique(self.hashes(text))

    def sign(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`(signatures (texts, permutations) uint32, shingles (texts,) int64)`, repeats counted.

        A text without shingles (no units in it) keeps a signature of ones in every bit.
        """
        signatures = np.full((len(texts), self.permutations), 0xFFFFFFFF, np.uint32)
        counts = np.zeros(len(texts), np.int64)
        if self.hashing == "sha1":
            for row, text in enumerate(texts):
                hashes = self.hash32(text)
                counts[row] = len(hashes)
                kernel.sign_hashes(hashes, self.a, self.b, signatures[row])
            return signatures, counts
        data = [self._bytes(text) for text in texts]
        offsets = np.zeros(len(data) + 1, np.int64)
        np.cumsum([len(item) for item in data], out=offsets[1:])
        buffer = np.frombuffer(b"".join(data) if len(data) != 1 else data[0], np.uint8)
        kernel.sign_texts(
            buffer, offsets, *unit_tables(self.unit), self.width, self._power, self.a, self.b, signatures, counts
        )
        return signatures, counts


@functools.lru_cache(maxsize=64)
def best_bands(threshold: float, permutations: int, false_positive_weight: float) -> tuple[int, int]:
    """`(bands, rows)` with the least weighted error at a threshold, as datasketch's MinHashLSH chooses them.

    The error is the area of `1 - (1 - s^rows)^bands` left of the threshold (false positives) and the area above the
    curve right of it (false negatives). Both are integrals of polynomials of degree `bands * rows`, which Gauss's rule
    gives exactly.
    """
    nodes, weights = np.polynomial.legendre.leggauss(permutations // 2 + 1)
    left, right = threshold * (nodes + 1) / 2, threshold + (1 - threshold) * (nodes + 1) / 2
    best, least = (1, 1), np.inf
    for bands in range(1, permutations + 1):
        for rows in range(1, permutations // bands + 1):
            positives = threshold / 2 * np.sum(weights * (1 - (1 - left**rows) ** bands))
            negatives = (1 - threshold) / 2 * np.sum(weights * (1 - right**rows) ** bands)
            error = false_positive_weight * positives + (1 - false_positive_weight) * negatives
            if error < least:
                best, least = (bands, rows), error
    return best
