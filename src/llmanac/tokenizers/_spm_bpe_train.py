"""Learning the pieces of a SentencePiece BPE model."""

from __future__ import annotations

import numpy as np

from llmanac.core.progress import progress
from llmanac.kernels import unigram_bpe_train
from llmanac.tokenizers._unigram_train import LONGEST_PIECE, Stretches


def learn(found: Stretches, size: int) -> list[tuple[str, float]]:
    """Up to `size` pieces with scores 0, -1, -2, ...: the merges in the order learned, then the alphabet."""
    alphabet = [character for character, _ in found.alphabet]
    most = max(0, size - len(alphabet))
    symbol_of = np.full(0x110000, -1, np.int32)
    symbol_of[[ord(character) for character in alphabet]] = np.arange(len(alphabet))
    data = [character.encode("utf-8") for character in alphabet]
    lengths, starts = np.zeros(len(data) + most, np.int64), np.zeros(len(data) + most, np.int64)
    lengths[: len(data)] = [len(item) for item in data]
    starts[: len(data)] = np.cumsum(lengths[: len(data)]) - lengths[: len(data)]
    joined = b"".join(data)
    letters = np.zeros(len(joined) + 4 * LONGEST_PIECE * (most + 1) + 32, np.uint8)
    letters[: len(joined)] = np.frombuffer(joined, np.uint8)
    with progress("learn merges", unit="merges") as bar:
        merges = unigram_bpe_train.learn(
            found.letters, found.offsets, found.counts, symbol_of, letters, starts, lengths, len(data), most,
            LONGEST_PIECE,
        )  # fmt: skip
        bar.advance(len(merges))
    texts = list(alphabet)
    for left, right in merges.tolist():
        texts.append(texts[left] + texts[right])
    order = [*texts[len(alphabet) :], *alphabet]
    return [(text, -float(rank)) for rank, text in enumerate(order)]
