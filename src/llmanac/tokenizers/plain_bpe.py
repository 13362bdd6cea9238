"""Byte-pair encoding in its shortest form: the loops that `bpe.py` runs in compiled code, and with the same result.

    train:   count neighbours over all pieces; merge the most frequent pair everywhere; repeat
    encode:  in each piece, merge the pair that was learned first; repeat until none is left

Both cost the number of merges times the length of the text; `bpe.py` keeps counts and places up to date instead.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

ROWS = ("tokenizer/bpe",)  # whose pages show this file
Pair = tuple[int, int]
Merge = tuple[Pair, int]  # two neighbours and the id that takes their place


def train(texts: Iterable[str], pattern: str, vocab_size: int, byte_ids: Sequence[int]) -> list[Merge]:
    """The merges, in the order learned.

    Args:
        pattern: the regular expression that cuts text into pieces.
        vocab_size: ids in all; the first merge is one above the largest of `byte_ids`, the ids of the 256 bytes.
    """
    counts = Counter(piece for text in texts for piece in regex.findall(pattern, text))
    words = {piece: [byte_ids[byte] for byte in piece.encode()] for piece in counts}
    merges: list[Merge] = []
    for new in range(max(byte_ids) + 1, vocab_size):
        pairs: Counter[Pair] = Counter()
        for piece, ids in words.items():
            for pair in itertools.pairwise(ids):
                pairs[pair] += counts[piece]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # of equally frequent ones the lower ids
        merges.append((best, new))
        words = {piece: merged(ids, best, new) for piece, ids in words.items()}
    return merges


def merged(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """The ids with each occurrence of the pair replaced by the new id, from the left."""
    out: list[int] = []
    at = 0
    while at < len(ids):
        found = tuple(ids[at : at + 2]) == pair
        out.append(new if found else ids[at])
        at += 1 + found
    return out


def encode(text: str, pattern: str, merges: Sequence[Merge], byte_ids: Sequence[int]) -> list[int]:
    """The ids of a text."""
    rank = {pair: (number, new) for number, (pair, new) in enumerate(merges)}
    out: list[int] = []
    for piece in regex.findall(pattern, text):
        ids = [byte_ids[byte] for byte in piece.encode()]
        while here := [pair for pair in itertools.pairwise(ids) if pair in rank]:
            first = min(here, key=lambda pair: rank[pair][0])
            ids = merged(ids, first, rank[first][1])
        out += ids
    return out
