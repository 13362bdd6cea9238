"""Answers against SQuAD's scorer written out; the n-gram against its definition; bits per byte."""

from __future__ import annotations

import gzip
import lzma
import math
import random
import re
import string
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, RequestError
from llmanac.core.types import IGNORE, Batch
from llmanac.evaluate.baselines import baselines, byte_bits, byte_ngram, join, ngram_bits
from llmanac.evaluate.bits_per_byte import bits_per_byte, score_texts, windows
from llmanac.metrics.answers import exact_match, f1

WORDS = ["The", "a", "cat,", "cat", "sat.", "SAT", "an", "x=1", "-", "dog's", "naïve", ""]


def squad_words(text: str) -> list[str]:
    """Lower, then punctuation, then articles, then white space: the order of the official script."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def squad_f1(answer: str, truth: str) -> float:
    """The official script's formula, with the words matched off one by one."""
    words, left = squad_words(answer), squad_words(truth)
    if not words or not left:
        return float(words == left)
    size, same = len(left), 0
    for word in words:
        if word in left:
            left.remove(word)
            same += 1
    precision, recall = same / len(words), same / size
    return 2 * precision * recall / (precision + recall) if same else 0.0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=8), st.lists(st.sampled_from(WORDS), max_size=8))
def test_f1_and_exact_match_equal_squads_scorer(left: list[str], right: list[str]) -> None:
    a, b = " ".join(left), " ".join(right)
    assert f1(a, b) == pytest.approx(squad_f1(a, b))
    assert exact_match(a, b) == (squad_words(a) == squad_words(b))


def test_best_of_several_references_counts() -> None:
    assert f1("a red cat", ["dog", "red cat", "the red fox"]) == 1.0
    assert exact_match("Red cat.", ["dog", "the red cat"]) == 1.0
    assert f1("green", ["red"]) == 0.0


def discounts(counts: list[int]) -> list[float]:
    """Chen and Goodman's for a count of 0, 1, 2, 3 and more, or KenLM's where they cannot be computed."""
    n = [counts.count(r) for r in range(5)]
    if not all(n[1:4]):
        return [0.0, 0.5, 1.0, 1.5]
    y = n[1] / (n[1] + 2 * n[2])
    found = [0.0] + [r - (r + 1) * y * n[r + 1] / n[r] for r in (1, 2, 3)]
    return found if all(0 <= d <= r for r, d in enumerate(found)) else [0.0, 0.5, 1.0, 1.5]


def by_definition(train: bytes, test: bytes, context: int) -> list[float]:
    """Interpolated modified Kneser-Ney written out over dictionaries."""
    counts: dict[int, Counter[bytes]] = {context + 1: Counter()}
    for i in range(len(train) - context):
        counts[context + 1][train[i : i + context + 1]] += 1
    for length in range(context, 0, -1):
        counts[length] = Counter(gram[1:] for gram in counts[length + 1])
    out = []
    for i in range(len(test)):
        p = 1 / 256
        for length in range(1, context + 2):
            if i < length - 1:
                break
            gram, d = test[i - length + 1 : i + 1], discounts(list(counts[length].values()))
            after = [c for g, c in counts[length].items() if g[:-1] == gram[:-1]]
            if not after:
                break
            total = sum(after)
            c = counts[length][gram]
            gamma = sum(min(c, d[min(c, 3)]) for c in after) / total
            p = max(c - d[min(c, 3)], 0) / total + gamma * p
        out.append(-math.log2(p))
    return out


@pytest.mark.parametrize("context", [0, 1, 2, 5])
def test_ngram_equals_its_definition(context: int) -> None:
    rng = random.Random(context)
    words = ["the ", "cat ", "sat ", "on ", "a ", "mat. ", "\n", "zé "]
    train, test = ("".join(rng.choices(words, k=n)).encode() for n in (200, 40))
    ours = byte_bits(byte_ngram(train, context), test + b"\xff")
    np.testing.assert_allclose(ours, by_definition(train, test + b"\xff", context), rtol=1e-6, atol=1e-6)


def test_ngram_sums_to_one_in_every_context() -> None:
    model = byte_ngram(b"abracadabra abracadabra, alakazam", 3)
    for before in (b"", b"a", b"abr", b"zzz", b"ala"):
        p = sum(2 ** -byte_bits(model, before + bytes([b]))[-1] for b in range(256))
        assert p == pytest.approx(1, abs=1e-6)


def test_longer_contexts_learn_more_and_training_helps() -> None:
    rng = random.Random(0)
    words = [f"w{rng.randrange(10**4)} " for _ in range(50)]
    train, test = ["".join(rng.choices(words, k=3000))], ["".join(rng.choices(words, k=300))]
    bits = [ngram_bits(train, test, order) for order in (0, 1, 3)]
    assert bits == sorted(bits, reverse=True)
    assert ngram_bits(train, test, 5) < 0.6 * ngram_bits(["unrelated"], test, 5)


def test_baselines_are_the_tools_own_figures() -> None:
    train, test = ["one text about cats " * 40, "another"], ["cats and one more text", "é" * 30]
    found = baselines(train, test)
    data, seen = join(test), join(train)
    size = sum(len(t.encode()) for t in test)
    assert found["gzip"] == 8 * len(gzip.compress(data, 9, mtime=0)) / size
    # the container and preset are the tool's; only the integrity check (4 to 8 bytes) is left out, in xz's favour
    assert found["xz"] <= 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / size
    assert found["xz-trained"] < found["xz"]
    assert found["ngram-5"] < found["bigram"]
    assert len(seen) == 1 + len(train[0]) + 1 + len(train[1])
    with pytest.raises(DataError, match="empty"):
        baselines(train, [])


class Bytes:
    """A tokenizer whose tokens are bytes, with a start token."""

    bos_id, eos_id, vocab_size = 256, None, 257

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


class Bigram(torch.nn.Module):
    """A language model whose logits depend on the last token only, so that windows cannot change its score."""

    def __init__(self, vocab_size: int = 257, max_length: int | None = None) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0)))
        self.vocab_size, self.max_length, self.seen = vocab_size, max_length, 0

    def nll(self, batch: Batch, reduction: str = "sum") -> torch.Tensor:
        assert self.max_length is None or batch.ids.shape[1] <= self.max_length
        assert not self.training
        logits = self.table[batch.ids]
        assert batch.targets is not None
        self.seen += int((batch.targets != IGNORE).sum())
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction=reduction
        )


TEXTS = ["short", "", "é and a longer text that needs several windows, since windows are short here", "x"]


@pytest.mark.parametrize(("window", "stride"), [(512, None), (8, None), (8, 1), (8, 8), (7, 3), (1, 1)])
def test_every_token_is_scored_once_whatever_the_windows(window: int, stride: int | None) -> None:
    model = Bigram().train()
    score = score_texts(model, Bytes(), TEXTS, window=window, stride=stride, batch_tokens=40)
    log_p = torch.log_softmax(model.table, -1).detach()
    expected = 0.0
    for text in TEXTS:
        ids = [256, *text.encode()]
        expected -= sum(float(log_p[a, b]) for a, b in pairwise(ids))
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert model.seen == score.tokens == score.bytes == sum(len(t.encode()) for t in TEXTS)
    assert score.bits_per_byte == pytest.approx(expected / math.log(2) / score.bytes, rel=1e-5)
    assert model.training


def test_windows_keep_at_least_the_context_they_promise() -> None:
    ids = np.arange(50)
    seen: list[int] = []
    for x, y in windows(ids, 16, 5):
        scored = np.flatnonzero(y != IGNORE)
        assert len(x) <= 16
        assert len(y) == len(x)
        np.testing.assert_array_equal(y[scored], x[scored] + 1)
        assert scored[0] == 0 or scored[0] >= 16 - 5
        seen += y[scored].tolist()
    assert seen == list(range(1, 50))


def test_uniform_model_needs_eight_bits_and_a_bit() -> None:
    model = Bigram().eval()
    with torch.no_grad():
        model.table.zero_()
    assert bits_per_byte(model, Bytes(), ["any text"]) == pytest.approx(math.log2(257), rel=1e-6)


def test_errors_say_what_to_do() -> None:
    model = Bigram(max_length=16).eval()
    with pytest.raises(RequestError, match="window: 32"):
        score_texts(model, Bytes(), TEXTS, window=32)
    with pytest.raises(DataError, match="texts are empty"):
        score_texts(model, Bytes(), [""])
    none = Bytes()
    none.bos_id = None  # type: ignore[assignment]
    with pytest.raises(DataError, match="start="):
        score_texts(model, none, TEXTS)
    assert score_texts(model, none, TEXTS, start=0).tokens == sum(len(t.encode()) for t in TEXTS)
