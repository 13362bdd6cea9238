"""Counting the distinct pieces of a stream of texts: the first step of learning any vocabulary."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.core.threads import Spares, in_order
from llmanac.kernels.split.counts import WordCounts
from llmanac.kernels.split.words import GIVEN
from llmanac.tokenizers._files import ByteRange, Files
from llmanac.tokenizers._normal import replace_surrogates

BOUNDARY = "\0"  # stands for what is not ordinary text; no piece may contain it
CHUNK = 1 << 21  # characters of text that are counted at a time


class CutsTexts(Protocol):
    """What cuts texts into pieces, as `_patterns.Splitter` does."""

    mode: int

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]: ...

    def pack(self, texts: list[str]) -> tuple[np.ndarray, int, np.ndarray]: ...


def count_pieces(texts: Iterable[str], splitter: CutsTexts, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(words, offsets (n + 1,), counts (n,) int64)`: the distinct pieces' bytes, and how often each occurs.

    Memory follows the distinct pieces; the texts may be a stream of any length.

    Raises:
        DataError: no piece at all, an item that is no text, or more bytes of pieces than can be numbered.
    """
    spares = Spares(lambda: _Counter(splitter))

    def count(given: ByteRange | tuple[np.ndarray, int, np.ndarray]) -> int:
        with spares.one() as counter:
            return counter.add(given)

    items: Iterator[Any] = map(splitter.pack, chunks(texts, method))
    if isinstance(texts, Files) and splitter.mode != GIVEN:
        items = texts.ranges()
    with progress("count words", unit="B") as bar:
        for used in in_order(count, items):
            bar.advance(used)
    counted, *others = [counter.words for counter in spares.idle] or [WordCounts(*splitter.classes, splitter.mode)]
    for other in others:
        counted.absorb(other)
    words, offsets, counts = counted.arrays()
    if not counted.unique:
        raise DataError(f"{method}: the texts to learn from are empty")
    if len(words) + counted.unique >= 1 << 31:
        raise DataError(f"{method}: {len(words)} bytes of distinct words are more than can be numbered (2^31)")
    return words, offsets, counts


class _Counter:
    """The words that one thread has counted, and the buffer that it reads files into."""

    def __init__(self, splitter: CutsTexts) -> None:
        self.words, self._buffer = WordCounts(*splitter.classes, splitter.mode), np.empty(0, np.uint8)

    def add(self, given: ByteRange | tuple[np.ndarray, int, np.ndarray]) -> int:
        """Count a packed buffer, or the text of a file; returns the bytes."""
        if isinstance(given, ByteRange):
            self._buffer, used = given.read_into(self._buffer)
            self.words.add(self._buffer, used)
            return used
        self.words.add(*given)
        return given[1]


def chunks(texts: Iterable[str], method: str) -> Iterator[list[str]]:
    """The texts without lone surrogates, in lists of about `CHUNK` characters. Raises DataError for a non-text."""
    if isinstance(texts, str):
        raise DataError(f"{method}: expected many texts, got one; put it into a list")
    held: list[str] = []
    size = 0
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{method}: text {i} is {type(text).__name__}, not str")
        held.append(replace_surrogates(text)[0])
        size += len(text)
        if size >= CHUNK:
            yield held
            held, size = [], 0
    if held:
        yield held


def bounded_chunks(texts: Iterable[str], symbols: Sequence[str], method: str) -> Iterator[list[str]]:
    """`chunks` with a `BOUNDARY` for each of the symbols in them, which are not ordinary text."""
    for held in chunks(texts, method):
        for symbol in symbols:
            held = [text.replace(symbol, BOUNDARY) for text in held]
        yield held
