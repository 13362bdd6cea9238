"""Row tokenizer/sentencepiece: ids and decoded text equal to the sentencepiece library, for models that it trained."""

from __future__ import annotations

import numpy as np
import pytest
from _spm import PHRASES, differing, texts, trained

from llmanac.kernels.sentencepiece.viterbi import viterbi
from llmanac.tokenizers._base import CHUNK
from llmanac.tokenizers._pieces import NORMAL, UNUSED, ScoredPiece
from llmanac.tokenizers.load import load_tokenizer
from llmanac.tokenizers.spm import files as spm

sentencepiece = pytest.importorskip("sentencepiece")
RULES = ("identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")
PLAIN = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
MODELS = [
    *({"model_type": kind, "normalization_rule_name": name, "byte_fallback": fallback}
      for kind in ("unigram", "bpe") for name in RULES for fallback in (True, False)),
    *({"model_type": kind, **more} for kind in ("unigram", "bpe") for more in (
        {**PLAIN, "byte_fallback": True}, {**PLAIN, "allow_whitespace_only_pieces": True},
        {"treat_whitespace_as_suffix": True}, {"split_by_unicode_script": False, "split_by_number": False},
        {"user_defined_symbols": ("<mask>", "the", "ab", "é", "\u2581th", "abc"), "control_symbols": ("<ctl>",)},
    )),
    {"model_type": "unigram", "split_by_whitespace": False},
]  # fmt: skip


def both(tmp_path, **choices):
    data = trained(**choices)
    (tmp_path / "m.model").write_bytes(data)
    return load_tokenizer(tmp_path / "m.model"), sentencepiece.SentencePieceProcessor(model_proto=data)


@pytest.mark.parametrize("choices", MODELS, ids=lambda c: "-".join(map(str, c.values()))[:60])
def test_ids_and_text_equal_the_library(choices, tmp_path):
    ours, theirs = both(tmp_path, **choices)
    given = texts()
    expected = theirs.encode(given)
    assert not differing([ids.tolist() for ids in ours.encode_batch(given)], expected, given)  # first encounter
    assert not differing([ids.tolist() for ids in ours.encode_batch(given)], expected, given)  # from the cache
    assert [ours.decode(ids) for ids in expected] == theirs.decode(expected)
    for text in given[:60]:
        assert ours.normalizer.text(text).replace(" ", "\u2581") == theirs.normalize(text).replace(" ", "\u2581")


@pytest.mark.slow
def test_real_texts(shared_data, tmp_path):
    for choices in ({"byte_fallback": True}, {"model_type": "bpe"}, {**PLAIN, "byte_fallback": True}):
        ours, theirs = both(tmp_path, **choices)
        for path in sorted((shared_data / "text").glob("*.txt")):
            whole = path.read_text("utf-8")
            given = [*whole.split("\n"), whole]
            expected = theirs.encode(given)
            assert not differing([ids.tolist() for ids in ours.encode_batch(given)], expected, given), path.name
            assert [ours.decode(ids) for ids in expected] == theirs.decode(expected)


def test_languages(tmp_path):
    babel = pytest.importorskip("babel")
    lines = []
    for name in (
        "ja",
        "zh",
        "ar",
        "he",
        "hi",
        "th",
        "ru",
        "el",
        "ko",
        "de",
        "vi",
        "ta",
        "ka",
        "am",
        "fa",
        "bn",
        "my",
        "km",
    ):
        locale = babel.Locale(name)
        lines += [*map(str, locale.territories.values()), *map(str, locale.languages.values())]
    for choices in ({"byte_fallback": True}, {"model_type": "bpe", "byte_fallback": True}):
        ours, theirs = both(tmp_path, **choices)
        given = [*lines, " ".join(lines)]
        assert not differing([ids.tolist() for ids in ours.encode_batch(given)], theirs.encode(given), given)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ties_and_near_ties(kind, tmp_path):
    """Scores that are equal or almost so: what decides is the library's rounding, which depends on the text before."""
    rng = np.random.default_rng(3)
    theirs_model = spm.parse(trained(model_type=kind, byte_fallback=True, **PLAIN))
    words = sorted({"".join(rng.choice(list("abc"), rng.integers(1, 6))) for _ in range(150)} | set("abc"))
    for scores in ([-1.0], [-1.1, -2.2, -3.3, -4.4], [-0.1, -0.2, -0.3, -0.30000001], [-123.456, -246.912, -61.728]):
        pieces = [piece for piece in theirs_model.pieces if piece.type != NORMAL]
        pieces += [ScoredPiece(word, float(np.float32(scores[len(word) % len(scores)]))) for word in words]
        data = spm.serialize(pieces, theirs_model.trainer, theirs_model.rules)
        (tmp_path / "t.model").write_bytes(data)
        ours, theirs = load_tokenizer(tmp_path / "t.model"), sentencepiece.SentencePieceProcessor(model_proto=data)
        given = ["".join(rng.choice(list("abc d"), rng.integers(1, 400))) for _ in range(60)]
        given.append("".join(rng.choice(list("abc d"), 60_000)))  # far beyond where sums start again
        given.append("".join(rng.choice(list("abc dé☃\n"), 20_000)))  # ... with what no piece holds
        assert not differing([ids.tolist() for ids in ours.encode_batch(given)], theirs.encode(given), given)
        assert not differing([ours.encode(text) for text in given], theirs.encode(given), given)


def test_the_cached_words_equal_the_plain_best_path(tmp_path):
    """The fast path beside the plain one: Viterbi over the whole text at once."""
    ours, _ = both(tmp_path, byte_fallback=True)
    tables = ours.tables
    for text in (*PHRASES, " ".join(PHRASES * 10)):
        buffer, used = ours.normalizer.pack([text])
        n = used - 1
        best, came, what = np.empty(n + 1), np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
        viterbi(
            buffer, 0, n, 0.0, tables.nodes, tables.scores, tables.unknown, tables.unknown_score, True, best, came, what
        )
        path, end = [], n
        while end > 0:
            path.append((what[end], buffer[came[end] : end].tobytes()))
            end = came[end]
        expected = []
        for piece, data in reversed(path):
            data = data.replace(b" ", "\u2581".encode())
            expected += [int(tables.byte_ids[b]) for b in data] if piece == tables.unknown else [int(piece)]
        assert ours.encode(text) == expected


def test_threads_give_the_same_ids(tmp_path, monkeypatch):
    ours, _ = both(tmp_path, byte_fallback=True)
    given = [" ".join(PHRASES[i % len(PHRASES)] + f" {i} é" for i in range(k, k + 11_000)) for k in range(7)]
    assert sum(map(len, given)) > 2 * CHUNK  # more than one group of texts
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    shared = ours.encode_batch(given)
    assert len(ours._words.idle) <= 2
    assert [ids.tolist() for ids in shared] == [ours.encode(text) for text in given]


def test_offsets_equal_the_library(tmp_path):
    for choices in ({}, {"normalization_rule_name": "identity"}, {"model_type": "bpe", **PLAIN}):
        ours, theirs = both(tmp_path, **choices)
        for text in (*PHRASES, "  two  spaces ", "\ufb01ne Ａｂｃ", "e\u0301e"):
            ids, offsets = ours.encode_with_offsets(text)
            raw = text.encode()
            found = theirs.encode(text, return_type="proto").pieces
            assert ids == [piece.id for piece in found]
            for (start, stop), piece in zip(offsets, found, strict=True):
                a, b = (len(raw[:place].decode()) for place in (piece.begin, piece.end))
                if theirs.is_byte(piece.id):  # there only the last byte of a character has a place
                    assert start == a and (a == b or stop == b)
                else:
                    assert (start, stop) == (a, b), text


def test_pieces_marked_unused_come_apart(tmp_path):
    for kind in ("unigram", "bpe"):
        model = spm.parse(trained(model_type=kind, byte_fallback=True))
        pieces = [
            ScoredPiece(p.text, p.score, UNUSED) if p.type == NORMAL and i % 3 == 0 else p
            for i, p in enumerate(model.pieces)
        ]
        data = spm.serialize(pieces, model.trainer, model.rules)
        (tmp_path / "u.model").write_bytes(data)
        ours, theirs = load_tokenizer(tmp_path / "u.model"), sentencepiece.SentencePieceProcessor(model_proto=data)
        given = texts()
        assert not differing([ids.tolist() for ids in ours.encode_batch(given)], theirs.encode(given), given)


def test_it_differs_from_characters_and_bytes(tmp_path):
    ours, _ = both(tmp_path, byte_fallback=True)
    text = PHRASES[0]
    assert len(ours.encode(text)) < len(text) / 2
    assert max(map(len, map(ours.token_bytes, ours.encode(text)))) > 3


def test_a_megabyte_of_one_character(tmp_path):
    for kind in ("unigram", "bpe"):
        ours, theirs = both(tmp_path, model_type=kind, byte_fallback=True)
        text = "a" * 100_000
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode("a" * 1_000_000)) == "a" * 1_000_000


def test_surrogates_are_mended(tmp_path):
    ours, _ = both(tmp_path, byte_fallback=True, **PLAIN)
    assert ours.encode("\ud83d\ude00 a\ud800") == ours.encode("\U0001f600 a\ufffd")
