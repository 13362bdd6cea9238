"""The comparison of counting with neural models: same words, same split, and probes that mean what they say."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from _ngrams import shared

from evidence import ngram_neural
from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.models.lm.ngram import Ngram
from llmanac.models.lm.ngram import Spec as NgramSpec
from llmanac.models.ngrams import words


def counted(path: Path, order: int, vocabulary: int) -> Ngram:
    smoothing = make_method("smoothing", "modified-kneser-ney")
    trie = words.train([path], order, smoothing.build()).trie
    return Ngram(NgramSpec(order=order, smoothing=smoothing), vocabulary, trie)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text(ngram_neural.made_up())
    return path


def test_both_kinds_read_the_same_words_and_the_ngrams_are_kenlms(tmp_path: Path) -> None:
    golden = json.loads(shared("golden/kenlm_tinyshakespeare.json").read_text())
    split, first, _ = ngram_neural.read(shared("text/tinyshakespeare.txt"), 35_000, 40_000)
    (tmp_path / "train.txt").write_bytes(first)
    assert sum(len(r) - 1 for r in split.test) == golden["tokens"]
    targets = np.concatenate([r[1:] for r in split.test])
    assert int((targets == 0).sum()) == golden["oov_tokens"]
    model = counted(tmp_path / "train.txt", 3, len(split.vocabulary))
    nats = ngram_neural.losses(model, split.test)  # the way every model is scored
    known = golden["orders"]["3"]["perplexity_excluding_oov"]
    assert np.exp(nats.mean()) == pytest.approx(golden["orders"]["3"]["perplexity_including_oov"], rel=5e-7)
    assert np.exp(nats[targets != 0].mean()) == pytest.approx(known, rel=5e-7)
    classes = ngram_neural.seen_classes(split, model.trie)
    grams = {tuple(r[i : i + 3]) for r in split.train for i in range(len(r) - 2)}
    flat = [tuple(r[max(0, i - 2) : i + 1]) for r in split.test for i in range(1, len(r))]
    assert [c == 3 for c in classes[:3000]] == [g in grams for g in flat[:3000]]


def test_swaps_put_a_like_word_where_it_was_never_seen(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_neural, "FREQUENT", 20)
    split, _, _ = ngram_neural.read(text, 650, 800)
    pairs = {frozenset(split.vocabulary[w].decode() for w in pair[:2]) for pair in ngram_neural.similar_words(split)}
    assert pairs & {frozenset({"john", "henry"}), frozenset({"mary", "anne"})}
    followed = {(a, b) for row in split.train for a, b in itertools.pairwise(row.tolist())}
    rows = ngram_neural.swaps(split, 0)
    assert len(rows["original"]) >= 10
    for a, b, c in zip(rows["original"], rows["like"], rows["random"], strict=True):
        assert tuple(a[-2:].tolist()) in followed and tuple(b[-2:].tolist()) not in followed
        assert tuple(c[-2:].tolist()) not in followed
        assert (a != b).sum() == 1 and (a != c).sum() == 1 and len({int(a[-2]), int(b[-2]), int(c[-2])}) == 3


def test_a_bigram_learns_nothing_across_a_gap(text: Path, tmp_path: Path) -> None:
    split, first, _ = ngram_neural.read(text, 650, 800)
    (tmp_path / "train.txt").write_bytes(first)
    told = {}
    score = functools.partial(ngram_neural.losses, last_only=True)
    for order in (2, 3):
        model = counted(tmp_path / "train.txt", order, len(split.vocabulary))
        for d, near, with_it, without in ngram_neural.gaps(split, 0):
            gain = score(model, without) - score(model, with_it)
            told[order, d, near] = float(np.abs(gain).mean())
            assert all((a != b).sum() <= 1 and len(a) == len(b) for a, b in zip(with_it, without, strict=True))
    assert told[2, 1, "kept"] > 0.1 and told[3, 2, "kept"] > 0
    assert all(told[2, d, near] == 0 for d in (2, 3, 4) for near in ("kept", "random"))
    assert all(told[3, d, near] == 0 for d in (3, 4) for near in ("kept", "random"))


def test_the_whole_comparison(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_neural, "FREQUENT", 20)
    found = ngram_neural.compared(text, 650, 800, 4, 0, 60)
    assert set(found["models"]) == {"2-gram", "3-gram", "5-gram", "feedforward", "transformer"}
    for label, m in found["models"].items():
        assert 1 < m["perplexity"] < 60, label
        assert m["seconds"] > 0 and m["bytes"] > 0
    assert found["models"]["5-gram"]["bytes"] > found["models"]["2-gram"]["bytes"]
    with pytest.raises(DataError, match="none to test on"):
        ngram_neural.read(text, 800, 800)
