"""What the tables of a SentencePiece BPE model take while they are made: bytes a piece, counted."""

import random
import tracemalloc

import numpy as np

from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._unigram_tables import Tables, _merges


def test_tables_of_a_large_vocabulary_take_few_bytes_a_piece():
    draw = random.Random(3)
    texts = {chr(97 + i) for i in range(26)}
    while len(texts) < 30_000:
        texts.add("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 5))))
    pieces = [spm.Piece("<unk>", 0.0, spm.UNKNOWN)]
    pieces += [spm.Piece(text, -float(i)) for i, text in enumerate(sorted(texts, key=lambda t: (len(t), t)))]
    model = spm.Model(tuple(pieces), {"model_type": spm.BPE, "vocab_size": len(pieces)}, spm.Rules())
    Tables.of(model)  # compiles
    tracemalloc.start()
    tables = Tables.of(model)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tables.pairs) >= 30_000 and held / len(pieces) < 200
    assert peak / len(pieces) < 450


def test_scores_are_ranked_as_floats_with_zero_above_its_negative():
    scores = np.array([-0.0, 0.0, -3.5, 2.0, 0.0, 1e-40, -1e-40], np.float32)
    order = [3, 5, 1, 4, 0, 6, 2]  # 1 and 4 are equal
    keys = [b"a", b"b", *(bytes(pair, "ascii") for pair in ("ab", "ba", "aa", "bb", "aba", "bab", "abb"))]
    scores = np.concatenate([[9, 9], scores]).astype(np.float32)
    pairs = _merges(keys, list(range(len(keys))), scores, len(keys))[2]
    filled = pairs[pairs[:, 1] != (1 << 64) - 1, 1]
    rank = {int(value & 0xFFFFFFFF) - 2: int(value >> 32) for value in filled}
    assert [rank[i] for i in order] == sorted(rank.values()) and rank[1] == rank[4] < rank[0]
    assert len(set(rank.values())) == len(order) - 1
