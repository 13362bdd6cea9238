"""Dense search against faiss, and reciprocal rank fusion against its formula."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from llmanac import build
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.retrieve import Hit
from llmanac.retrieve import dense as module
from llmanac.retrieve.bm25 import BM25
from llmanac.retrieve.dense import Dense, Spec
from llmanac.retrieve.hybrid import Hybrid, fuse, fuse_scores
from llmanac.retrieve.hybrid import Spec as HybridSpec

WORDS = ["cat", "kitten", "dog", "car", "engine", "wheel", "piano", "violin"]


def encode(texts):
    """A vector of word counts, so that nearness is known."""
    return np.array([[text.lower().split().count(word) for word in WORDS] for text in texts], np.float32)


@pytest.mark.parametrize(("size", "width", "k"), [(1, 3, 5), (700, 16, 1), (5000, 33, 20), (130, 8, 130)])
def test_search_equals_faiss(size, width, k, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", width * 257)  # several blocks, the last one short
    rng = np.random.default_rng(size)
    vectors, queries = (rng.normal(0, 0.2, (n, width)).astype(np.float32) for n in (size, 7))
    peer = faiss.IndexFlatIP(width)
    peer.add(vectors)
    scores, places = peer.search(queries, min(k, size))
    found, ours = Dense(vectors=vectors).search(queries, k)
    np.testing.assert_array_equal(found, places)
    np.testing.assert_allclose(ours, scores, rtol=1e-5, atol=1e-6)


def test_half_precision_loses_little_and_ties_go_to_the_first():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, _ = Dense(vectors=vectors).search(vectors[:50] + 0.1, 10)
    half, _ = Dense(vectors=vectors.astype(np.float16)).search(vectors[:50] + 0.1, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, half, strict=True)]) > 0.97
    same = Dense(vectors=np.ones((9, 4), np.float32))
    assert same.search(np.ones((1, 4)), 3)[0].tolist() == [[0, 1, 2]]
    assert same.search(-np.ones((1, 4)), 3)[0].tolist() == [[0, 1, 2]]


def test_texts_are_found_by_an_encoder_and_saved(tmp_path):
    texts = ["a cat", "the car has an engine", "piano and violin", "a cat and a kitten"]
    index = build("retriever", "dense", texts=texts, encode=encode)
    assert [hit.position for hit in index.top("kitten cat", 2)] == [3, 0]
    assert index.top("cat", 0) == []
    index.save(tmp_path / "index")
    back = Dense.load(tmp_path / "index", encode=encode)
    assert back.top("engine car", 4) == index.top("engine car", 4) and len(back) == 4
    (tmp_path / "index" / "index.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"index\.safetensors"):
        Dense.load(tmp_path / "index")
    prefixed = Dense(["x"], Spec(text_prefix="cat ", query_prefix="dog "), encode=encode)
    assert prefixed.vectors[0, 0] == 1 and prefixed.top("cat", 1)[0].score == 1


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(SpecError, match="model: name an encoder"):
        Dense(["a"])
    with pytest.raises(DataError, match="not finite"):
        Dense(["a"], encode=lambda texts: np.full((1, 2), np.nan))
    with pytest.raises(DataError, match="of 4 numbers"):
        Dense(vectors=np.ones((2, 4), np.float32)).search(np.ones((1, 3)), 1)
    assert Dense().top("a") == []


def test_fusion_equals_the_formula():
    rng = np.random.default_rng(3)
    rankings = [rng.permutation(50)[:30].tolist() for _ in range(3)]
    weights = [1.0, 0.5, 2.0]
    expected = np.zeros(50)
    for ranking, weight in zip(rankings, weights, strict=True):
        for text in range(50):
            if text in ranking:
                expected[text] += weight / (60 + ranking.index(text) + 1)
    found = fuse(rankings, weights=weights)
    assert [hit.position for hit in found] == [i for i in np.argsort(-expected, kind="stable") if expected[i] > 0]
    np.testing.assert_allclose([hit.score for hit in found], np.sort(expected[expected > 0])[::-1])
    assert fuse([[4, 2], [2, 4]]) == [Hit(2, 1 / 61 + 1 / 62), Hit(4, 1 / 61 + 1 / 62)]


def test_hybrid_takes_from_both():
    texts = ["cat", "kitten kitten", "blue wheel", "sky"]
    both = Hybrid([BM25(texts), Dense(texts, encode=encode)])
    assert {hit.position for hit in both.top("sky kitten", 2)} == {1, 3}
    made = build("retriever", "hybrid", texts=texts, encode=encode, k=1.0)
    assert made.spec.k == 1.0 and [h.position for h in made.top("kitten", 1)] == [1] and len(made) == 4
    with pytest.raises(SpecError, match="weights"):
        HybridSpec(weights=(-1.0, 1.0))
    with pytest.raises(SpecError, match="depth"):
        HybridSpec(depth=0)


def test_fusion_of_scores_equals_the_formula():
    rng = np.random.default_rng(4)
    weights, expected, found = [1.0, 0.5], np.zeros(40), []
    for weight, scale in zip(weights, (30.0, 0.2), strict=True):
        places, scores = rng.permutation(40)[:25], np.sort(rng.normal(0, scale, 25))[::-1]
        expected[places] += weight * (scores - scores.min()) / (scores.max() - scores.min())
        found.append([Hit(int(p), float(s)) for p, s in zip(places, scores, strict=True)])
    ours = fuse_scores(found, weights)
    np.testing.assert_allclose([expected[hit.position] for hit in ours], [hit.score for hit in ours])
    assert [hit.score for hit in ours] == sorted((hit.score for hit in ours), reverse=True)
    assert [hit.position for hit in ours] != [hit.position for hit in fuse([[h.position for h in f] for f in found])]
    assert fuse_scores([[Hit(3, 2.0)], []]) == [Hit(3, 1.0)]
    texts = ["cat cat", "dog", "cat dog car"]
    both = Hybrid([BM25(texts), Dense(texts, encode=encode)], HybridSpec(fusion="scores"))
    assert both.top("cat", 1)[0].position == 0
