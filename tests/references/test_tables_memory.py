"""What the tables of a SentencePiece BPE model take while they are made: bytes a piece, counted."""

import random
import tracemalloc

from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._unigram_tables import Tables


def test_tables_of_a_large_vocabulary_take_few_bytes_a_piece():
    draw = random.Random(3)
    texts = {chr(97 + i) for i in range(26)}
    while len(texts) < 30_000:
        texts.add("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 5))))
    pieces = [spm.ScoredPiece("<unk>", 0.0, spm.UNKNOWN)]
    pieces += [spm.ScoredPiece(text, -float(i)) for i, text in enumerate(sorted(texts, key=lambda t: (len(t), t)))]
    model = spm.Model(tuple(pieces), {"model_type": spm.BPE, "vocab_size": len(pieces)}, spm.NormalizerRules())
    Tables.of(model)  # compiles
    tracemalloc.start()
    tables = Tables.of(model)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tables.pairs) >= 30_000 and held / len(pieces) < 200
    assert peak / len(pieces) < 400


def test_pairs_are_all_ways_to_make_a_piece_of_two_ranked_by_score():
    """0.0 is above -0.0; a character that is no piece takes part with an id of its own."""
    scores = {
        "ab": -0.0,
        "ba": 0.0,
        "aa": -3.5,
        "bb": 2.0,
        "aba": 0.0,
        "bab": 1e-40,
        "abb": -1e-40,
        "é漢": -9.0,
        "aé": 1.0,
    }
    pieces = [spm.ScoredPiece("<unk>", 0.0, spm.UNKNOWN), spm.ScoredPiece("a", 9.0), spm.ScoredPiece("b", 9.0)]
    pieces += [spm.ScoredPiece(text, score) for text, score in scores.items()]
    model = spm.Model(tuple(pieces), {"model_type": spm.BPE, "vocab_size": len(pieces)}, spm.NormalizerRules())
    pairs = Tables.of(model).pairs
    merged = [
        (int(value >> 32), pieces[int(value & 0xFFFFFFFF)].text) for value in pairs[:, 1] if value != (1 << 64) - 1
    ]
    known = {piece.text for piece in pieces} | {"é", "漢"}
    wanted = [text for text in scores for i in range(1, len(text)) if {text[:i], text[i:]} <= known]
    assert sorted(text for _, text in merged) == sorted(wanted) and len(wanted) == 12
    order = ["bb", "aé", "bab", "ba", "aba", "ab", "abb", "aa", "é漢"]
    rank = {text: place for place, text in merged}
    assert [rank[text] for text in order] == sorted(rank.values()) and rank["ba"] == rank["aba"] < rank["ab"]
    assert len(set(rank.values())) == len(order) - 1
