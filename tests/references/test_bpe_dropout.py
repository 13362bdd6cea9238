"""Row tokenizer/subword-regularization, its BPE half: BPE-dropout against exact enumeration, beside `tokenizers`."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmanac.core.errors import TokenizerError
from llmanac.kernels.bpe import dropout as bpe_dropout
from llmanac.kernels.split.words import GIVEN
from llmanac.kernels.text import pack
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers._sampled import Sampled
from llmanac.tokenizers.load import train_tokenizer

CORPUS = ["banana bandana cabana anagram bananas band nab a an ban", "aaaa aaa aa abab ababab", "naïve 中文 中中"] * 6
WORDS = ["banana", "bandana", "aaaaa", "ababab", "cabanas", "中中文"]
SEEDS = 6000
many = settings(max_examples=50, deadline=None)


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return train_tokenizer("bpe", CORPUS, vocab_size=320, pattern="gpt2", special_tokens=("<s>",))


def exact(bpe: BPE, word: str, p: float) -> dict[tuple[int, ...], float]:
    """The probability of every segmentation, by following every branch of algorithm 1 of Provilkov et al. 2020."""
    rank = {(a, b): (i, new) for i, (a, b, new) in enumerate(bpe.merges.T.tolist())}

    @cache
    def outcomes(ids: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], float], ...]:
        merges = sorted((*rank[pair], i) for i, pair in enumerate(itertools.pairwise(ids)) if pair in rank)
        total: Counter[tuple[int, ...]] = Counter()
        for dropped, (_, new, i) in enumerate(merges):
            for end, share in outcomes((*ids[:i], new, *ids[i + 2 :])):
                total[end] += p**dropped * (1 - p) * share
        total[ids] += p ** len(merges)
        return tuple(total.items())

    return dict(outcomes(tuple(int(bpe._byte_ids[byte]) for byte in word.encode())))


def chi_square(found: Counter, expected: dict[tuple[int, ...], float]) -> float:
    """The p-value of counts against probabilities; rare outcomes are put together."""
    draws = sum(found.values())
    assert set(found) <= {ids for ids, share in expected.items() if share > 0}
    common = [ids for ids, share in expected.items() if share * draws >= 5]
    observed = [found[ids] for ids in common]
    wanted = [expected[ids] * draws for ids in common]
    if len(common) < len(expected):
        observed.append(draws - sum(observed))
        wanted.append(draws - sum(wanted))
    if wanted[-1] < 1e-6:
        observed, wanted = observed[:-1], wanted[:-1]
    return float(stats.chisquare(observed, wanted, sum_check=False).pvalue) if len(wanted) > 1 else 1.0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("word", WORDS)
def test_frequencies_are_those_of_exact_enumeration(bpe, word, p):
    expected = exact(bpe, word, p)
    assert sum(expected.values()) == pytest.approx(1) and len(expected) > 2
    found = Counter(tuple(bpe.sample(word, seed=seed, dropout=p)) for seed in range(SEEDS))
    assert chi_square(found, expected) > 1e-5
    wrong = exact(bpe, word, min(0.97, p + 0.08))  # the test can tell: another p is refused
    assert set(found) - set(wrong) or chi_square(found, wrong) < 1e-5


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_the_heap_draws_as_the_scan_does(bpe, monkeypatch, p):
    """Pieces too long for exact enumeration: the same distribution of lengths by both ways, and of exact short ones."""
    pairs, byte_ids = bpe._tables[0], bpe._byte_ids
    dropped = np.uint64(int(p * 2**64))

    def by_heap(word: str, seed: int) -> tuple[int, ...]:
        data = np.frombuffer(word.encode() + bytes(32), np.uint8)
        out, state = np.empty(len(word.encode()), np.int32), np.array([seed * 7919], np.uint64)
        address, steps = np.uint64(data.ctypes.data), np.zeros(4, np.int64)
        n = bpe_dropout._merge_long(address, len(word.encode()), byte_ids, pairs, out, steps, dropped, state)
        return tuple(out[:n].tolist())

    for word in ("bandana", "ababab", "aaaaa"):
        found = Counter(by_heap(word, seed) for seed in range(SEEDS))
        assert chi_square(found, exact(bpe, word, p)) > 1e-5


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("word", ["banana", "cabanas", "ababab"])
def test_beside_tokenizers(bpe, word, p):
    """Its draws differ from the algorithm where its queue holds merges that are gone: up to 5 % of them, on `banana` at
    p = 0.5, fall elsewhere, where ours are those of the enumeration above. It has no seed, so the bound is wide."""
    tokenizers = pytest.importorskip("tokenizers")
    spelled = [written(data or b"") for data in bpe.tokens]
    vocabulary = {text: id for id, text in enumerate(spelled)}
    merges = [(spelled[a], spelled[b]) for a, b in bpe.merges[:2].T.tolist()]
    peer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges, dropout=p))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs = Counter(tuple(peer.encode(word).ids) for _ in range(SEEDS))
    ours = Counter(tuple(bpe.sample(word, seed=seed, dropout=p)) for seed in range(SEEDS))
    distance = sum(abs(theirs[ids] - ours[ids]) for ids in theirs | ours) / (2 * SEEDS)
    assert distance < 0.1
    other = Counter(tuple(bpe.sample(word, seed=seed, dropout=p + 0.3)) for seed in range(SEEDS))
    assert sum(abs(theirs[ids] - other[ids]) for ids in theirs | other) / (2 * SEEDS) > 0.15  # and it can tell
    assert set(theirs) | set(ours) <= set(exact(bpe, word, p))


@many
@given(text=st.text(max_size=80))
def test_nothing_dropped_is_bpe_and_everything_dropped_is_bytes(bpe, text):
    assert bpe.sample(text, seed=1, dropout=0) == bpe.sample(text, seed=2, dropout=0.0) == bpe.encode(text)
    every = bpe.sample(text, seed=1, dropout=1)
    assert every == [int(bpe._byte_ids[byte]) for byte in text.encode()]


@many
@given(text=st.text(max_size=80), seed=st.integers(), p=st.floats(0, 1))
def test_every_draw_is_the_text(bpe, text, seed, p):
    ids = bpe.sample(text, seed=seed, dropout=p)
    assert bpe.decode(ids) == text and ids == bpe.sample(text, seed=seed, dropout=p)
    assert len(bpe.encode(text)) <= len(text.encode()) and len(ids) <= len(text.encode())


def test_seeds_and_parts_are_apart(bpe):
    text = "banana bandana " * 30
    drawn = {tuple(bpe.sample(text, seed=seed, dropout=0.3)) for seed in range(-20, 20)}
    assert len(drawn) == 40
    assert bpe.sample(text, seed=2**70, dropout=0.3) != bpe.sample(text, seed=0, dropout=0.3)
    special = bpe.sample("banana<s>banana", seed=0, dropout=0.2)
    assert bpe.special_tokens["<s>"] not in special and bpe.decode(special) == "banana<s>banana"


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.93, 0.95, 0.9999, 1 - 1e-9])
@pytest.mark.parametrize("text", ["a" * 300_000, "ab" * 150_000, "banana" * 50_000])
def test_long_pieces_end_and_come_back(bpe, text, p):
    ids = bpe.sample(text, seed=0, dropout=p)
    assert bpe.decode(ids) == text
    if p == 1e-9:
        assert ids == bpe.encode(text)


def test_more_is_dropped_with_p(bpe):
    text = " ".join(WORDS * 50)
    lengths = [len(bpe.sample(text, seed=0, dropout=p)) for p in (0, 0.1, 0.3, 0.6, 0.9, 1)]
    assert lengths == sorted(lengths) and len(set(lengths)) == 6


def test_regex_patterns_and_whole_pieces_too():
    plain = train_tokenizer("bpe", CORPUS, vocab_size=300, pattern=r"\S+|\s+", special_tokens=())
    assert plain.decode(plain.sample("banana bandana", seed=3, dropout=0.4)) == "banana bandana"
    whole = BPE(tokens=plain.tokens, merges=plain.merges, splitter=plain.splitter, whole_pieces=True)
    assert whole.sample("banana", seed=0, dropout=0) == whole.encode("banana")
    assert Counter(tuple(whole.sample("banana", seed=s, dropout=0.5)) for s in range(500)) == Counter(
        tuple(plain.sample("banana", seed=s, dropout=0.5)) for s in range(500)
    )


def test_a_data_set_of_sampled_segmentations(bpe, tmp_path):
    from llmanac.data.tokens import TokenDataset

    texts = ["banana bandana cabana"] * 40
    made = TokenDataset.write(tmp_path / "a", texts, Sampled(bpe, seed=5, dropout=0.4))
    drawn = [tuple(ids.tolist())[1:] for ids in made]  # after <s>
    assert [tuple(bpe.sample(text, seed=5 + i, dropout=0.4)) for i, text in enumerate(texts)] == drawn
    assert len(set(drawn)) > 10 and {bpe.decode(ids) for ids in drawn} == {texts[0]}
    again = TokenDataset.write(tmp_path / "b", texts, Sampled(bpe, seed=5, dropout=0.4))
    assert again.hash == made.hash
    assert TokenDataset.write(tmp_path / "c", texts, Sampled(bpe, seed=6, dropout=0.4)).hash != made.hash
    plain = TokenDataset.write(tmp_path / "d", texts, bpe)
    assert plain.manifest["tokenizer"] != made.manifest["tokenizer"] and len(plain) < len(made)
    with pytest.raises(TokenizerError, match="one segmentation"):
        Sampled(train_tokenizer("utf8", []), seed=0)
    with pytest.raises(TokenizerError, match="special: a sampled segmentation"):
        Sampled(bpe, seed=0).encode("<s>", special="all")


def test_errors_say_what_to_do(bpe):
    for bad in (-0.1, 1.1, float("nan"), "0.1", None, True):
        with pytest.raises(TokenizerError, match=r"sample: dropout is .*, not a probability between 0 and 1"):
            bpe.sample("a", seed=0, dropout=bad)
    with pytest.raises(TokenizerError, match="sample: seed is 'x', not a whole number"):
        bpe.sample("a", seed="x")
    with pytest.raises(TokenizerError, match="sample: 'alpha' is no choice of a BPE; it has dropout"):
        bpe.sample("a", seed=0, alpha=0.1)
    poor = BPE(tokens=[b"a", b"b", b"ab"], merges=np.array([[0], [1], [2]], np.int32), splitter=bpe.splitter)
    for p in (0, 0.5, 1):
        with pytest.raises(TokenizerError, match="no token for the byte 0x63"):
            poor.sample("abc", seed=0, dropout=p)


def test_kernel_reads_given_pieces():
    buffer, used = pack([b"abab"])
    made = train_tokenizer("bpe", ["abab"] * 9, vocab_size=258, special_tokens=())
    arguments = (buffer, used, *made.splitter.classes, GIVEN, np.array([2, 4]), made._byte_ids, made._tables[0])
    ids, missing = bpe_dropout.sample(*arguments, np.uint64(0), np.uint64(1))
    assert ids.tolist() == made.encode("ab") * 2 and missing == 0
