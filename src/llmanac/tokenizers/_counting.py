"""Counting the distinct pieces of a stream of texts: the first step of learning any vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.kernels.split.words import WordCounts
from llmanac.tokenizers._normal import replace_surrogates

BOUNDARY = "\0"  # stands for what is not ordinary text; no piece may contain it
CHUNK = 1 << 23  # bytes of text that are counted at a time


class Cuts(Protocol):
    """What cuts texts into pieces, as `_patterns.Splitter` does."""

    mode: int

    @property
    def classes(self) -> tuple[np.ndarray, np.ndarray]: ...

    def pack(self, texts: list[str]) -> tuple[np.ndarray, int, np.ndarray]: ...


def count_pieces(texts: Iterable[str], splitter: Cuts, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(words, offsets (n + 1,), counts (n,) int64)`: the distinct pieces' bytes, and how often each occurs.

    Memory follows the distinct pieces; the texts may be a stream of any length.

    Raises:
        DataError: no piece at all, an item that is no text, or more bytes of pieces than can be numbered.
    """
    counted = WordCounts(*splitter.classes, splitter.mode)
    with progress("count words", unit="B") as bar:
        for chunk in chunks(texts, method):
            buffer, used, ends = splitter.pack(chunk)
            counted.add(buffer, used, ends)
            bar.advance(used, words=counted.unique)
    words, offsets, counts = counted.arrays()
    if not counted.unique:
        raise DataError(f"{method}: the texts to learn from are empty")
    if len(words) + counted.unique >= 1 << 31:
        raise DataError(f"{method}: {len(words)} bytes of distinct words are more than can be numbered (2^31)")
    return words, offsets, counts


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
