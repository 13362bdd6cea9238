"""Baselines of a language model: compressors and byte n-grams, on the same documents, after the same text.

Every figure is bits per byte of the test documents. Compressors and n-grams see the documents one after another, each
closed by a zero byte, which helps them (a document's start is then predictable); the zero bytes are not counted in
the denominator.
"""

import gzip
import lzma
import math
from collections.abc import Iterable

import numpy as np

from llmanac.core.errors import DataError
from llmanac.models.ngrams.counts import count
from llmanac.models.ngrams.trie import Trie, places
from llmanac.models.ngrams.words import estimate
from llmanac.models.smoothing.modified_kneser_ney import Spec as ModifiedKneserNey

END = b"\x00"  # cleaned text never holds it


def join(texts: Iterable[str]) -> bytes:
    """The documents' bytes, a zero byte before each."""
    return b"".join(END + text.encode("utf-8") for text in texts)


def _xz(data: bytes) -> int:
    """Bytes of `xz -9e`, with a window that spans all of the data."""
    window = max(1 << 26, 1 << (len(data) - 1).bit_length())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": min(window, 1536 << 20)}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters))


def byte_ngram(data: bytes, context: int) -> Trie:
    """A byte n-gram with `context` bytes of context, interpolated modified Kneser-Ney.

    Raises:
        DataError: there is no data.
    """
    words = np.frombuffer(data, np.uint8).astype(np.int32)
    counts = count(words, places(np.array([len(words)])), 256, context + 1)
    return estimate(counts, ModifiedKneserNey().build())


def byte_bits(model: Trie, data: bytes) -> np.ndarray:
    """(N,) float64: -log2 p of every byte given those before it (fewer than the context at the start)."""
    words = np.frombuffer(data, np.uint8).astype(np.int32)
    scores, _ = model.score_stream(words, places(np.array([len(words)])))
    return scores * -math.log2(10)


def ngram_bits(train: Iterable[str], test: Iterable[str], order: int = 5) -> float:
    """Bits per byte of a byte n-gram with `order` bytes of context, interpolated modified Kneser-Ney."""
    data = join(test)
    bits = byte_bits(byte_ngram(join(train), order), data)
    counted = np.frombuffer(data, np.uint8) != 0
    return float(bits[counted].sum() / counted.sum())


def baselines(train: Iterable[str], test: Iterable[str], *, order: int = 5) -> dict[str, float]:
    """Bits per byte of every baseline on the test texts.

    Returns:
        gzip: `gzip -9` of the test text alone.
        xz: `xz -9e` of the test text alone.
        xz-trained: what the test text adds to `xz -9e` of the training text, which is its context.
        bigram: a byte bigram trained on the training text.
        ngram-5: an interpolated modified Kneser-Ney byte n-gram with five bytes of context, trained likewise.

    Raises:
        DataError: no test text.
    """
    train, test = list(train), list(test)
    data, seen = join(test), join(train)
    size = len(data) - len(test)
    if size <= 0:
        raise DataError("baselines: the test texts are empty; hold out some text")
    return {
        "gzip": 8 * len(gzip.compress(data, 9, mtime=0)) / size,
        "xz": 8 * _xz(data) / size,
        "xz-trained": 8 * (_xz(seen + data) - _xz(seen)) / size,
        "bigram": ngram_bits(train, test, 1),
        f"ngram-{order}": ngram_bits(train, test, order),
    }
