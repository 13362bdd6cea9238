"""Learning the pieces of a SentencePiece BPE model."""

from collections.abc import Sequence

import numpy as np

from llmanac.core.progress import progress
from llmanac.kernels.sentencepiece import bpe_train as unigram_bpe_train
from llmanac.tokenizers._unigram_train import LONGEST_PIECE, Stretches


def learn(found: Stretches, size: int) -> list[tuple[str, float]]:
    """Up to `size` pieces with scores 0, -1, -2, ...: the merges in the order learned, then the alphabet."""
    alphabet = [character for character, _ in found.alphabet]
    most = max(0, size - len(alphabet))
    symbol_of = np.full(0x110000, -1, np.int32)
    symbol_of[[ord(character) for character in alphabet]] = np.arange(len(alphabet))
    merges = merge(found.letters, found.offsets, found.counts, symbol_of, alphabet, most)
    texts = list(alphabet)
    for left, right in merges.tolist():
        texts.append(texts[left] + texts[right])
    order = [*texts[len(alphabet) :], *alphabet]
    return [(text, -float(rank)) for rank, text in enumerate(order)]


def merge(
    words: np.ndarray, offsets: np.ndarray, counts: np.ndarray, symbol_of: np.ndarray, symbols: Sequence[str], most: int
) -> np.ndarray:
    """(n, 2) int64 left and right symbol of up to `most` merges; the merge i makes the symbol `len(symbols) + i`.

    Args:
        words, offsets, counts: UTF-8 of the words, one after the other; where each starts; how often each occurs.
        symbol_of: int32 by code point, which symbol a character of the words is; -1 for one that is never merged.
        symbols: the texts of the symbols that there are at first.
    """
    characters = int(np.count_nonzero((words[: int(offsets[-1])] & 0xC0) != 0x80))
    most = min(most, characters)  # a merge leaves the words at least one symbol fewer
    data = [text.encode("utf-8") for text in symbols]
    widths = np.array([len(text) for text in symbols], np.int64)
    lengths, starts = np.zeros(len(data) + most, np.int64), np.zeros(len(data) + most, np.int64)
    lengths[: len(data)] = [len(item) for item in data]
    starts[: len(data)] = np.cumsum(lengths[: len(data)]) - lengths[: len(data)]
    joined = b"".join(data)
    letters = np.zeros(len(joined) + 4 * LONGEST_PIECE * (most + 1) + 32, np.uint8)
    letters[: len(joined)] = np.frombuffer(joined, np.uint8)
    with progress("learn merges", unit="merges") as bar:
        merges = unigram_bpe_train.learn(
            words, offsets, counts, symbol_of, letters, starts, lengths, widths, len(data), most, LONGEST_PIECE,
        )  # fmt: skip
        bar.advance(len(merges))
    found: np.ndarray = merges
    return found
