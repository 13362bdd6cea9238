"""Row tokenizer/bpe: merges and vocabulary identical to `BpeTrainer` of Hugging Face tokenizers."""

from __future__ import annotations

import itertools
import json
import random
import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from llmanac.core.errors import DataError, SpecError, TokenizerError
from llmanac.kernels.bpe import train as bpe_train
from llmanac.kernels.split.counts import WordCounts
from llmanac.kernels.split.words import GPT2
from llmanac.kernels.text import pack
from llmanac.kernels.unicode import split_classes
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers.load import texts_of, train_tokenizer
from llmanac.tokenizers.patterns.splitter import NAMED

tokenizers = pytest.importorskip("tokenizers")


def standard_library(files: int | None = None) -> list[str]:
    root, texts = Path(sysconfig.get_paths()["stdlib"]), []
    for path in sorted(root.rglob("*.py"))[:files]:
        if "site-packages" not in path.parts:
            texts.append(path.read_text("utf-8", errors="replace"))
    return texts


def theirs(texts, vocab_size, pattern, special=(), min_frequency=0):
    """`(merges, vocabulary)` that `tokenizers` learns."""
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    steps = tokenizers.pre_tokenizers
    split = steps.Split(tokenizers.Regex(NAMED.get(pattern, pattern)), "isolated")
    peer.pre_tokenizer = steps.Sequence([split, steps.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=steps.ByteLevel.alphabet(), show_progress=False,
        special_tokens=list(special), min_frequency=min_frequency,
    )  # fmt: skip
    peer.train_from_iterator(texts, trainer)
    model = json.loads(peer.to_str())["model"]
    return [tuple(merge) for merge in model["merges"]], model["vocab"]


def ours(texts, vocab_size, pattern, special=(), min_frequency=0):
    made = train_tokenizer(
        "bpe", texts, vocab_size=vocab_size, pattern=pattern, special_tokens=special, min_frequency=min_frequency
    )
    spelled = [special[id] if id < len(special) else written(data) for id, data in enumerate(made.tokens)]
    merges = [(spelled[left], spelled[right]) for left, right in made.merges[:2].T.tolist()]
    return merges, {text: id for id, text in enumerate(spelled)}


def corpus(rng: random.Random) -> list[str]:
    letters = "abcde"[: rng.randint(1, 5)] + rng.choice(["", "é", "中", "'s", "1", "\n"])
    longest = rng.choice([6, 15, 40])

    def word() -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(1, longest)))

    return [" ".join(word() for _ in range(rng.randint(1, 150))) for _ in range(rng.randint(1, 4))]


@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "gpt4", "o200k"])
@pytest.mark.parametrize("seed", range(60))
def test_random_corpora(pattern, seed):
    rng = random.Random(seed * 7 + len(pattern))
    texts, size = corpus(rng), 256 + rng.randint(1, 500)
    least = rng.choice([0, 0, 2, 5])
    assert ours(texts, size, pattern, (), least) == theirs(texts, size, pattern, (), least)


def test_special_tokens_that_equal_a_mergeable_string():
    reused = 0
    for seed in range(150):
        rng = random.Random(seed)
        texts = corpus(rng)
        words = [piece for text in texts for piece in text.split() if piece.isascii() and piece.isalnum()] or ["ab"]
        special = list(dict.fromkeys(rng.choice(words)[: rng.randint(1, 4)] for _ in range(rng.randint(1, 4))))
        special = (*special, "<|end|>")
        size = 256 + len(special) + rng.randint(1, 300)
        mine = ours(texts, size, "gpt2", special)
        assert mine == theirs(texts, size, "gpt2", special), (seed, special)
        reused += sum(left + right in special for left, right in mine[0])
    assert reused > 100  # the case was really met


def test_two_thousand_from_real_sources():
    texts = standard_library(150)
    for pattern in ("gpt2", "llama3"):
        special = ("<|end|>", "self", "<|pad|>")
        assert ours(texts, 2048, pattern, special) == theirs(texts, 2048, pattern, special)


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [8192, 32000])
@pytest.mark.parametrize("pattern", ["gpt2", "llama3"])
def test_the_whole_standard_library(vocab_size, pattern):
    texts = standard_library()
    mine = ours(texts, vocab_size, pattern, ("<|end|>",))
    assert len(mine[1]) == vocab_size
    assert mine == theirs(texts, vocab_size, pattern, ("<|end|>",))


def test_counts_do_not_overflow_32_bits():
    words = np.frombuffer(b"abcd", np.uint8)
    counts = np.array([5_000_000_000, 4_999_999_999], np.int64)
    learned = bpe_train.train(words, np.array([0, 2, 4]), counts, np.arange(256, dtype=np.int32), [], 256, 300)
    assert learned.merges.tolist() == [[97, 98, 256, 5_000_000_000], [99, 100, 257, 4_999_999_999]]


def counted(text: bytes) -> WordCounts:
    words = WordCounts(*split_classes(), GPT2)
    words.add(*pack([text]))
    return words


@pytest.mark.parametrize("letters", ["a", "abc"])
def test_work_is_near_linear_without_blanks(letters):
    """Four times the text, about four times the places visited: one word as long as the whole corpus."""
    rng = random.Random(0)

    def work(n: int) -> int:
        text = "".join(rng.choice(letters) for _ in range(n)).encode()
        words, offsets, counts = counted(text).arrays()
        assert len(counts) == 1
        learned = bpe_train.train(words, offsets, counts, np.arange(256, dtype=np.int32), [], 256, 256 + 60)
        return learned.visited

    assert work(4 * 65536) < 4.6 * work(65536)


def test_a_megabyte_of_one_letter():
    made = train_tokenizer("bpe", ["a" * 1_000_000], vocab_size=300, special_tokens=(), pattern="gpt2")
    ids = made.encode("a" * 1_000_000)
    assert made.decode(ids) == "a" * 1_000_000 and len(ids) < 40


def test_word_counts_hold_the_distinct_words_only():
    counted = WordCounts(*split_classes(), GPT2)
    for _ in range(200):
        counted.add(*pack([b"the quick brown fox jumps over the lazy dog " * 100]))
    words, offsets, counts = counted.arrays()
    found = {bytes(words[a:b]): c for a, b, c in zip(offsets[:-1], offsets[1:], counts.tolist(), strict=True)}
    assert found[b"the"] == 200 and found[b" the"] == 200 * 199 and found[b" fox"] == 20000
    assert sum(found.values()) == counted.pieces
    assert counted._words.nbytes + counted._table.nbytes + counted._offsets.nbytes < 1 << 18


def test_long_words_that_share_a_hash_key_length_stay_apart():
    texts = [f"{'x' * 40}{i:04d}" for i in range(3000)]
    words, offsets, counts = counted("\n".join(texts).replace("\n", " ").encode()).arrays()
    assert counts.sum() == len(texts) * 2  # letters and number are two pieces
    assert {bytes(words[a:b]) for a, b in itertools.pairwise(offsets)} == {
        b"x" * 40, b" " + b"x" * 40, *[f"{i:04d}".encode() for i in range(3000)]
    }  # fmt: skip


def test_streams_files_and_texts_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("llmanac.tokenizers._files.BLOCK", 1000)  # so that files are read in many blocks
    texts = standard_library(6)
    paths = []
    for i, text in enumerate(texts):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text(text, "utf-8", newline="")
        assert "".join(texts_of(paths[-1])) == text
    choices = {"vocab_size": 900, "pattern": "gpt4", "special_tokens": ()}
    prints = {
        train_tokenizer("bpe", source, **choices).fingerprint()
        for source in (texts, iter(texts), paths, [str(path) for path in paths], tmp_path)
    }
    assert len(prints) == 1
    assert train_tokenizer("bpe", texts[:1], **choices).fingerprint() not in prints
    one = train_tokenizer("bpe", str(paths[0]), **choices)
    assert one.fingerprint() == train_tokenizer("bpe", texts[:1], **choices).fingerprint()


def test_lone_surrogates_are_replaced():
    a = train_tokenizer("bpe", ["ab \ud800 ab"], vocab_size=258, special_tokens=())
    b = train_tokenizer("bpe", ["ab \ufffd ab"], vocab_size=258, special_tokens=())
    assert a.fingerprint() == b.fingerprint()
    assert a.decode(a.encode("x\ud83d\ude00y\udc00")) == "x\U0001f600y\ufffd"


def test_errors_say_what_to_do(tmp_path):
    def fails(kind, match, *arguments, **choices):
        with pytest.raises(kind, match=match):
            train_tokenizer("bpe", *arguments, **choices)

    fails(SpecError, r"vocab_size: 260 is less than 256 bytes \+ special tokens = 261", ["a"], vocab_size=260)
    fails(SpecError, "no split pattern named 'gpt5'; did you mean 'gpt", ["a"], pattern="gpt5")
    fails(SpecError, r"pattern.*a '\)' is missing", ["a"], pattern="(a")
    fails(SpecError, "special_tokens.1: '<x>' is given twice", ["a"], special_tokens=("<x>", "<x>"))
    fails(SpecError, "special_tokens.0: '' is empty", ["a"], special_tokens=("",))
    fails(SpecError, "special_tokens.0: 'Ġ' is how a vocabulary writes a byte", ["a"], special_tokens=("Ġ",))
    fails(SpecError, "eos: '</s>' is not among special_tokens", ["a"], eos="</s>")
    fails(SpecError, "no such field; did you mean 'vocab_size'", ["a"], vocab_siz=300)
    fails(DataError, "the texts to learn from are empty", [])
    fails(DataError, "the texts to learn from are empty", ["", ""])
    fails(DataError, "text 1 is int", ["a", 3])
    fails(DataError, "nowhere.txt: no such file", tmp_path / "nowhere.txt")
    fails(DataError, "nowhere.txt: no such file", str(tmp_path / "nowhere.txt"))
    fails(DataError, "holds no .txt file", tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"fine " * 500 + b"\xff rest")
    fails(DataError, "bad.txt: not UTF-8 at byte 2500", tmp_path / "bad.txt")
    (tmp_path / "cut.txt").write_bytes("fine é".encode()[:-1])
    fails(DataError, "cut.txt: not UTF-8 at byte 5", tmp_path / "cut.txt")
    fails(TokenizerError, "rename it", ["Ġé " * 3 + " the" * 50], special_tokens=("Ġthe",), vocab_size=270)


def test_a_vocabulary_far_beyond_the_text_takes_no_room():
    small = train_tokenizer("bpe", ["abab abab"], vocab_size=1 << 29)
    assert small.tokens == train_tokenizer("bpe", ["abab abab"], vocab_size=300).tokens
    assert small.vocab_size < 270


@pytest.mark.parametrize("name", ["rows.jsonl", "table.CSV", "text.txt.xz", "page.html", "rows.parquet"])
def test_a_file_that_is_no_plain_text_is_refused(name, tmp_path):
    """Its syntax would be learned as words."""
    (tmp_path / name).write_bytes(b'{"text": "hello"}\n')
    with pytest.raises(DataError, match=re.escape(name)):
        train_tokenizer("bpe", tmp_path / name, vocab_size=270)
