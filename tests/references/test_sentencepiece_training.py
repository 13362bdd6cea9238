"""Row tokenizer/sentencepiece: what is learned, beside what the sentencepiece library learns from the same text."""

from __future__ import annotations

import io
import itertools
import random
import sys
import unicodedata

import numpy as np
import pytest
from _spm import PHRASES, code, differing, texts

from llmanac.core.errors import DataError, SpecError
from llmanac.kernels.sentencepiece import unigram_train
from llmanac.kernels.text import pack
from llmanac.tokenizers._spm_normalizer import compile_charsmap, read_charsmap
from llmanac.tokenizers._spm_rules import NAMES, rules_of
from llmanac.tokenizers._unigram_train import CorpusWords, Pieces, digamma, seeds, suffix_array
from llmanac.tokenizers.load import train_tokenizer
from llmanac.tokenizers.spm import files as spm

sentencepiece = pytest.importorskip("sentencepiece")
PLAIN = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
SPECIAL = ("<s>", "</s>")


def library(lines, **choices):
    out = io.BytesIO()
    settings = {"num_threads": 1, "minloglevel": 2, "byte_fallback": True, "max_sentence_length": 1 << 20, **PLAIN}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **settings | choices)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def in_library(tokenizer):
    return sentencepiece.SentencePieceProcessor(model_proto=spm.written(tokenizer.model))


def bits_per_byte(model, lines):
    """By the model's own probabilities, and by the frequencies of its tokens; a byte of fallback counts 16 bits."""
    ids = [i for line in model.encode(lines) for i in line]
    size = sum(len(line.encode()) for line in lines)
    own = sum(16.0 if model.is_byte(i) else -model.get_score(i) / np.log(2) for i in ids) / size
    counts = np.bincount(ids)
    counts = counts[counts > 0]
    return own, float(-(counts * np.log2(counts / counts.sum())).sum() / size)


@pytest.mark.parametrize("prefix", [False, True])
def test_unigram_compresses_as_well_as_the_library(prefix):
    lines = list(code(40))
    train, held_out = [line for i, line in enumerate(lines) if i % 5], lines[::5]
    ours = in_library(
        train_tokenizer("sentencepiece", train, vocab_size=3000, special_tokens=SPECIAL, add_dummy_prefix=prefix)
    )
    theirs = library(train, vocab_size=3000, add_dummy_prefix=prefix)
    assert len(ours) == len(theirs) == 3000
    for given in (train, held_out):
        for mine, other in zip(bits_per_byte(ours, given), bits_per_byte(theirs, given), strict=True):
            assert mine < 1.01 * other
    few = in_library(train_tokenizer("sentencepiece", train, vocab_size=400, special_tokens=SPECIAL))
    assert bits_per_byte(few, held_out)[1] > 1.2 * bits_per_byte(ours, held_out)[1]  # learning more did something


@pytest.mark.parametrize("size", [600, 1500])
@pytest.mark.parametrize("lines", [[*PHRASES * 9, *code()[:800]], list(code(12))], ids=["languages", "code"])
def test_bpe_learns_the_pieces_of_the_library(lines, size):
    ours = train_tokenizer("sentencepiece-bpe", lines, vocab_size=size, special_tokens=SPECIAL)
    theirs = library(lines, vocab_size=size, model_type="bpe")
    assert len(ours.pieces) == len(theirs) == size
    expected = [theirs.id_to_piece(i).replace("\u2581", " ") for i in range(size)]
    assert [piece.text for piece in ours.pieces] == expected


MIXED = [
    "سـلام عليكم مرحـبا بالعالم كتـاب ـــ",
    "كِتَابٌ مُحَمَّد",
    "カタカナーとひらがな漢字ーー コーヒー ｶﾞｰ",
    "naïve cafe\u0301 e\u0301te\u0301 o\u0301",
    "नमस्ते दुनिया हिन्दी क्षि",
    "abc中文def",
    "Привет e\u0301 мир о\u0301",
    "١٢٣ سلام 123 ㍿ ²x",
    "שָׁלוֹם עולם",
    "x\u200dy a\u200cb ʰa",
    "한국어 \u1112\u1161",
]


@pytest.mark.parametrize("size", [440, 500])
def test_bpe_parts_pieces_where_the_script_changes(size):
    """By Unicode's property: tatweel and the long vowel's sign are Common, a combining mark is Inherited."""
    rng = random.Random(size)
    lines = [" ".join(rng.choice(rng.choice(MIXED).split()) for _ in range(8)) for _ in range(500)]
    ours = train_tokenizer("sentencepiece-bpe", lines, vocab_size=size, special_tokens=SPECIAL)
    theirs = library(lines, vocab_size=size, model_type="bpe", hard_vocab_limit=False)
    expected = [theirs.id_to_piece(i).replace("\u2581", " ") for i in range(len(theirs))]
    assert [piece.text for piece in ours.pieces] == expected
    assert {"سـ", "ـا"}.isdisjoint(expected)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
@pytest.mark.parametrize("normalizer", NAMES)
def test_the_library_reads_what_was_learned(model, normalizer, tmp_path):
    for squeeze in (False, True):
        ours = train_tokenizer(
            "sentencepiece", PHRASES * 5, vocab_size=700, model=model, normalizer=normalizer, special_tokens=SPECIAL,
            remove_extra_whitespaces=squeeze, add_dummy_prefix=squeeze, user_defined_symbols=("<mask>", "quick"),
        )  # fmt: skip
        ours.save(tmp_path)
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
        given = texts()
        expected = theirs.encode(given)
        assert not differing([ids.tolist() for ids in ours.encode_batch(given)], expected, given)
        assert [ours.decode(ids) for ids in expected] == theirs.decode(expected)
        assert (theirs.bos_id(), theirs.eos_id(), theirs.pad_id()) == (1, 2, -1) == (ours.bos_id, ours.eos_id, -1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "identity"])
def test_rules_equal_the_library_but_for_younger_characters(name):
    ours = rules_of(name)
    model = spm.parse(
        library(
            PHRASES * 9, vocab_size=900, hard_vocab_limit=False, normalization_rule_name=name
        ).serialized_model_proto()
    )
    units, blob = read_charsmap(model.rules.charsmap)
    units, blob = units.tolist(), blob.tobytes()
    theirs, stack = {}, [(0, b"")]
    by_label: dict[int, list[int]] = {}
    for place, unit in enumerate(units):
        if not unit >> 31:
            by_label.setdefault(place >> 8, []).append(place)
    while stack:
        node, key = stack.pop()
        offset = (units[node] >> 10) << ((units[node] & 512) >> 6)
        if units[node] & 256:
            start = units[node ^ offset] & 0x7FFFFFFF
            theirs[key.decode()] = blob[start : blob.index(b"\0", start)].decode()
        base = node ^ offset
        for place in by_label.get(base >> 8, ()):
            label = place ^ base
            if 0 < label < 256 and units[place] & 0xFF == label:
                stack.append((place, key + bytes([label])))

    def known(text):
        return all(unicodedata.category(c) != "Cn" for c in text)

    assert {k: v for k, v in theirs.items() if known(k + v)} == ours
    assert len(theirs) - len(ours) < 1000
    assert compile_charsmap(ours) and len(compile_charsmap(ours)) < 1.05 * len(model.rules.charsmap)


def test_expectations_equal_enumeration():
    rng = random.Random(1)
    texts_ = sorted(
        {b"a", b"b", b"c"} | {bytes(rng.choice(b"abc") for _ in range(rng.randint(2, 4))) for _ in range(9)}
    )
    scores = np.log(np.array([rng.random() for _ in texts_]))
    pieces = Pieces(texts_, scores, np.array([len(t) for t in texts_]))
    words, counts = [b"abcabc", b"cab", b"aabbccab"], np.array([3, 5, 2])
    letters = np.frombuffer(b"".join(words) + bytes(32), np.uint8)
    offsets = np.cumsum([0, *map(len, words)])
    found = np.zeros(len(texts_))
    likelihood = unigram_train.expectations(letters, offsets, counts, pieces.nodes, scores, pieces.widths, -30.0, found)

    expected, total = np.zeros(len(texts_)), 0.0
    for word, count in zip(words, counts, strict=True):
        paths = []
        for cuts in itertools.product([0, 1], repeat=len(word) - 1):
            places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
            parts = [word[a:b] for a, b in itertools.pairwise(places)]
            if all(part in texts_ for part in parts):
                ids = [texts_.index(part) for part in parts]
                paths.append((ids, np.exp(scores[ids].sum())))
        mass = sum(p for _, p in paths)
        total += count * np.log(mass)
        for ids, p in paths:
            for i in ids:
                expected[i] += count * p / mass
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert likelihood == pytest.approx(total, rel=1e-10)


def test_long_stretches_neither_overflow_nor_vanish():
    pieces = Pieces([b"a", b"b"], np.array([-2.0, -300.0]), np.array([1, 1]))
    words = b"a" * 2000 + b"b" * 3 + b"a" * 2000
    found = np.zeros(2)
    letters, offsets = np.frombuffer(words + bytes(32), np.uint8), np.array([0, len(words)])
    value = unigram_train.expectations(
        letters, offsets, np.array([2]), pieces.nodes, pieces.scores, pieces.widths, -99.0, found
    )
    np.testing.assert_allclose(found, [8000, 6], rtol=1e-9)
    assert value == pytest.approx(2 * (4000 * -2.0 + 3 * -300.0))


def test_digamma_and_suffix_array():
    scipy = pytest.importorskip("scipy.special")
    x = np.concatenate([np.linspace(0.5, 12, 200), [1e3, 1e7]])
    np.testing.assert_allclose(digamma(x), scipy.digamma(x), rtol=1e-12)
    rng = random.Random(2)
    text = "".join("".join(rng.choice("ab") for _ in range(rng.randint(1, 30))) + "\0" for _ in range(40))
    codes = np.frombuffer(text.encode("utf-32-le"), np.int32).astype(np.int64)
    left = np.array([text.index("\0", i) - i + 1 for i in range(len(text))])
    order = suffix_array(codes, left, 16)
    keys = [text[i : i + min(16, left[i])] for i in order.tolist()]
    assert keys == sorted(keys)


def test_seeds_are_what_repeats():
    words = CorpusWords()
    words.add(*pack([b"banana banana bandana"]))
    found = words.stretches(1.0, 99, "")
    made = seeds(found, 1000)
    assert made["ana"] == 3 * 5 and made["an"] == 2 * 6 and made["ban"] == 3 * 3 and made["banana"] == 6 * 2
    assert made[" ban"] == 4 * 2 and made["a"] == 9 and "nan" not in made  # always within "nana"


@pytest.mark.slow
def test_every_text_comes_back_with_the_defaults():
    for model in ("unigram", "bpe"):
        made = train_tokenizer("sentencepiece", PHRASES * 5, vocab_size=600, model=model)
        for text in texts():
            assert made.decode(made.encode(text)) == text
        every = "".join(chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)
        assert made.decode(made.encode(every)) == every
        assert in_library(made).decode(in_library(made).encode(every[1:])) == every[1:]


def test_choices_that_cannot_be():
    for choices, message in (
        ({"vocab_size": 200}, "vocab_size: 200 leaves no piece"),
        ({"special_tokens": ["<unk>"]}, "special_tokens.0: '<unk>' is the unknown token already"),
        ({"special_tokens": ["<0x41>"]}, "is a byte's piece already"),
        ({"special_tokens": ["a", "a"]}, "special_tokens.1: 'a' is special_tokens.0 already"),
        ({"user_defined_symbols": [""]}, "user_defined_symbols.0"),
        ({"normalizer": "nfkx"}, "'nfkx' is not one of"),
        ({"character_coverage": 0.0}, "character_coverage: 0.0 is no share"),
        ({"eos": "</x>"}, "eos: '</x>' is not among special_tokens"),
    ):
        with pytest.raises(SpecError, match=message):
            train_tokenizer("sentencepiece", ["text"], **choices)
    for given in ([], [""], ["\0"]):
        with pytest.raises(DataError, match="the texts to learn from are empty"):
            train_tokenizer("sentencepiece", given)
    with pytest.raises(DataError, match="text 1 is int, not str"):
        train_tokenizer("sentencepiece", ["a", 3])


@pytest.mark.timeout(60)
def test_learning_ends_where_no_piece_can_be_done_without():
    """A script of many characters and a small vocabulary: pruning comes to a stop above its goal."""
    draw = random.Random(0)
    characters = [chr(0x4E00 + i) for i in range(235)]
    words = ["".join(draw.choices(characters, k=draw.randint(2, 4))) for _ in range(300)]
    lines = [" ".join(draw.choices(words, k=40)) for _ in range(60)]
    made = train_tokenizer("sentencepiece", lines, vocab_size=500)
    assert made.vocab_size <= 500 and all(made.decode(made.encode(line)) == line for line in lines)
