"""Row tokenizer/bpe: split kernels equal to their patterns, Unicode classes equal to those of the peers, merging."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import regex

from llmanac.kernels import unicode
from llmanac.kernels.bpe import encode as bpe_encode
from llmanac.kernels.split import words
from llmanac.kernels.text import cached, pack
from llmanac.kernels.unicode import CODE_POINTS, in_categories, newer_characters, split_classes, table
from llmanac.tokenizers import _word_cache
from llmanac.tokenizers.load import train_tokenizer
from llmanac.tokenizers.patterns.splitter import DIGIT, GPT2, NAMED, Splitter

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")

PIECES = [
    "a", "b", "Z", "K", "'", "'s", "'LL", "'ſ", "'S", "'re", "'VE", " ", "  ", "\n", "\r\n", "\t", "1", "23", "٣", "é",
    "ß", "中", "🙂", "\u0308", "\xa0", "\u3000", "\u2028", "_", "-", "...", "!", "\x1c", "\x85", "\u200b", "İ", "ⅷ",
    "²", "\v", "\0", "\u0130", "\U00010780", "\ufffd", "\uffff", "\U0010ffff", "abcdefgh", "abcdefghi", "ſ", "\x7f",
]  # fmt: skip
KERNELS = [(GPT2,), (NAMED["gpt4"],), (NAMED["llama3"],), (NAMED["qwen3"],), (DIGIT, GPT2)]


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 24)))


def by_kernel(splitter: Splitter, texts: list[str]) -> list[int]:
    buffer, used = pack([text.encode() for text in texts])
    return words.piece_ends(buffer, used, *splitter.classes, splitter.mode).tolist()


def by_regex(splitter: Splitter, texts: list[str]) -> list[int]:
    ends, base = [], 0
    for text in texts:
        ends += [base + len(text[:end].encode()) for end in splitter.pieces(text)]
        base += len(text.encode()) + 1
    return ends


@pytest.mark.parametrize("steps", KERNELS)
def test_kernels_equal_their_patterns(steps):
    splitter = Splitter(steps)
    assert splitter.mode != words.GIVEN
    rng = random.Random(len(steps[-1]))
    for _ in range(60):
        texts = [random_text(rng) for _ in range(100)]
        assert by_kernel(splitter, texts) == by_regex(splitter, texts)


@pytest.mark.parametrize("steps", KERNELS)
def test_kernels_on_every_character(steps):
    splitter = Splitter(steps)
    every = [chr(c) for c in range(CODE_POINTS) if not 0xD800 <= c < 0xE000]
    every = [f"a{c}1{c}{c} {c}\n{c}" for c in every]
    picked = random.Random(1).sample(every, 5_000) + every[:0x3100]
    assert by_kernel(splitter, picked) == by_regex(splitter, picked)


def test_patterns_without_a_kernel_lose_nothing():
    splitter = Splitter([r"[\u4e00-\u9fff]+", r"\p{N}{1,3}", r"b+"])
    assert splitter.mode == words.GIVEN
    rng = random.Random(3)
    for _ in range(300):
        text = random_text(rng)
        ends = splitter.pieces(text)
        assert ends == sorted(set(ends)) and ends[-1] == len(text)
    peer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split(tokenizers.Regex(step), "isolated") for step in splitter.steps]
    )
    for _ in range(300):
        text = random_text(rng)
        assert splitter.pieces(text) == [stop for _, (_, stop) in peer.pre_tokenize_str(text)]


@pytest.mark.parametrize("category", ["L", "N", "Lu", "Lo", "Ll", "Lm", "Lt", "M"])
def test_unicode_classes_are_those_of_tiktoken(category):
    every = "".join(chr(c) for c in range(CODE_POINTS) if not 0xD800 <= c < 0xE000)
    peer = tiktoken.Encoding(
        "x", pat_str=rf"\p{{{category}}}", mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )
    found = {ord(c) for c in peer.decode(peer.encode_ordinary(every))}
    if len(found) != int(in_categories(category).sum()):
        pytest.skip("this release of tiktoken follows another version of Unicode; run tools/make_unicode_tables.py")
    assert found == set(np.flatnonzero(in_categories(category)).tolist())


def test_white_space_and_newer_characters():
    space = np.flatnonzero((table() & unicode.SPACE_FLAG) != 0)
    assert [chr(c) for c in space] == regex.findall(
        r"\s", "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10FFFF)]))
    )
    splitter = Splitter([NAMED["o200k"]])
    newer = [chr(c) for c in newer_characters()]
    for character in newer[:: max(1, len(newer) // 50)]:  # unassigned for the peers: no letter, so it stands apart
        assert splitter.pieces(f"ab{character}") == [2, 3]
    assert set(split_classes()[1].tolist()) <= {0, 1, 2, 4}


def test_heap_and_scan_merge_alike_and_the_heap_is_near_linear():
    rng = random.Random(5)
    made = train_tokenizer(
        "bpe", ["".join(rng.choice("abc") for _ in range(3000)) for _ in range(20)], vocab_size=700, special_tokens=()
    )
    made.encode("a")
    pairs, counters = made._tables[0], made._words.idle[0].counters
    assert pairs.shape[0] > 700
    for length in (1, 2, 3, 40, 47, 48, 49, 50, 63, 64, 65, 200):
        text = "".join(rng.choice("abc") for _ in range(length))
        ids = list(text.encode())
        expected = [int(made._byte_ids[b]) for b in ids]
        ranks = {(a, b): (rank, new) for rank, (a, b, new) in enumerate(made.merges.T.tolist())}
        while True:  # the definition
            options = [(*ranks[pair], i) for i, pair in enumerate(itertools.pairwise(expected)) if pair in ranks]
            if not options:
                break
            _, new, at = min(options)
            expected[at : at + 2] = [new]
        assert made.encode(text) == expected == made.encode(text)

    def steps(n: int, letters: str) -> int:
        counters[bpe_encode.STEPS] = 0
        text = "".join(rng.choice(letters) for _ in range(n))
        assert made.decode(made.encode(text)) == text
        return int(counters[bpe_encode.STEPS])

    for letters in ("a", "abc"):
        assert 100_000 < steps(400_000, letters) < 4.4 * steps(100_000, letters)


def test_the_word_cache_is_bounded_and_starts_over(monkeypatch):
    monkeypatch.setattr(_word_cache, "CACHE_WORDS", 64)
    monkeypatch.setattr(_word_cache, "CACHE_PLACES", 96)
    rng = random.Random(2)
    alphabet = ["abcdefgh", "é中ю"]
    texts = [
        " ".join("".join(rng.choice(rng.choice(alphabet)) for _ in range(rng.randint(1, 30))) for _ in range(60))
        for _ in range(60)
    ]
    small = train_tokenizer("bpe", texts, vocab_size=400, special_tokens=(), pattern="gpt2")
    small.encode("")
    [cache] = small._words.idle
    assert cache.rows.shape == (64, 4)
    monkeypatch.undo()
    large = train_tokenizer("bpe", texts, vocab_size=400, special_tokens=(), pattern="gpt2")
    for text in texts * 2:
        assert small.encode(text) == large.encode(text)
    assert cache.rows.nbytes == 64 * 32 and large._words.idle[0].rows.nbytes > 64 * 32
    counters = cache.counters
    assert 0 < counters[bpe_encode.WORDS] <= 33 and counters[bpe_encode.IDS] <= 96
    small.forget_words()
    assert counters.tolist() == [0, 0, 0, 0] and small.encode(texts[0]) == large.encode(texts[0])


def test_the_disk_cache_of_the_kernels_follows_all_their_files():
    assert (
        cached(lambda x: x + 1)._cache._cache_file._source_stamp[1]
        == bpe_encode.encode._cache._cache_file._source_stamp[1]
    )
