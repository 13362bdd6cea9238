"""Properties of benchmarks against sacrebleu, NLTK, numpy, scipy, and the authors' formula of Min-K%++."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.metrics.diversity import self_bleu

RNG = np.random.default_rng(0)
WORDS = ["the", "sky,", "is", "blue.", "Snow", "white;", "coal", "&", "grass", "-", "it's", "3.5", "$4", "green"]


def texts(count=14):
    return [" ".join(RNG.choice(WORDS, RNG.integers(1, 14))) for _ in range(count)]


def test_diversity_equals_the_definitions():
    import sacrebleu
    from nltk import ngrams
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    given, vectors = texts(), RNG.normal(size=(14, 6))
    found = build("metric", "diversity")(given, vectors)
    expected = [sacrebleu.sentence_bleu(t, given[:i] + given[i + 1 :]).score for i, t in enumerate(given)]
    assert found.self_bleu == pytest.approx(np.mean(expected), abs=1e-9)
    for n in (1, 2, 3):
        grams = [gram for text in given for gram in ngrams(Tokenizer13a()(text.lower()).split(), n)]
        assert found.distinct[n] == pytest.approx(len(set(grams)) / len(grams), abs=1e-12)
    assert found.spread == pytest.approx(pdist(vectors, "cosine").mean(), abs=1e-12)
    # texts that say the same are not diverse
    same = build("metric", "diversity")(["the sky is blue today"] * 5, np.ones((5, 3)))
    assert same.self_bleu == pytest.approx(100) and same.distinct[1] == 0.2 and same.spread == pytest.approx(0)
    assert found.self_bleu < 90 and build("metric", "diversity", most=5, seed=1)(given).texts == 5
    assert math.isnan(build("metric", "diversity")(["a", "b"]).distinct[3])
    with pytest.raises(DataError, match="at least two"):
        self_bleu(["one"])
    with pytest.raises(SpecError, match="most"):
        build("metric", "diversity", most=1)


def test_item_rest_equals_scipy():
    skill, hard = RNG.normal(size=12), RNG.normal(size=20)
    scores = (RNG.random((12, 20)) < 1 / (1 + np.exp(hard - 2 * skill[:, None]))).astype(float)
    scores[:, 3] = 1.0
    found = build("metric", "item-rest")(scores)
    for i in range(20):
        rest = np.delete(scores, i, axis=1).sum(1)
        if i == 3:
            assert math.isnan(found.correlation[i])
            continue
        assert found.correlation[i] == pytest.approx(stats.pearsonr(scores[:, i], rest)[0], abs=1e-12)
        assert found.correlation[i] == pytest.approx(np.corrcoef(scores[:, i], rest)[0, 1], abs=1e-12)
    np.testing.assert_allclose(found.difficulty, scores.mean(0))
    guessed = build("metric", "item-rest")((RNG.random((12, 200)) < 0.25).astype(float))
    assert np.nanmean(found.correlation) > 0.3 > abs(np.nanmean(guessed.correlation)) + 0.2  # skill, not chance
    with pytest.raises(DataError, match="at least 3 systems"):
        build("metric", "item-rest")(scores[:2])


@pytest.mark.parametrize("rule", ["spearman", "kendall"])
def test_rank_correlation_equals_scipy(rule):
    peer = stats.spearmanr if rule == "spearman" else stats.kendalltau
    for _ in range(20):
        x, y = RNG.integers(0, 6, 12), RNG.integers(0, 6, 12)
        found = build("metric", rule)(x, y)
        assert found.value == pytest.approx(peer(x, y)[0], abs=1e-12)
        assert found.low < found.value < found.high
    assert build("metric", rule)([1, 2, 3], [3, 2, 1]).value == pytest.approx(-1)
    assert math.isnan(build("metric", rule)([1, 2, 3], [1, 1, 1]).value)
    # the interval holds the value of the population about 95 times in 100
    inside, truth = 0, 6 / math.pi * math.asin(0.35) if rule == "spearman" else 2 / math.pi * math.asin(0.7)
    for _ in range(400):
        x, y = RNG.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 15).T
        found = build("metric", rule)(x, y)
        inside += found.low <= truth <= found.high
    assert inside / 400 > 0.92
    with pytest.raises(DataError, match="at least 3"):
        build("metric", rule)([1, 2], [1, 2])


def test_min_k_equals_the_authors_formula():
    logits, ids = torch.randn(30, 50, dtype=torch.float64) * 2, torch.randint(0, 50, (30,))
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(-1, ids[:, None])[:, 0]
    probs = logits.softmax(-1)  # zjysteven/mink-plus-plus, run.py
    mu = (probs * logprobs).sum(-1)
    sigma = (probs * torch.square(logprobs)).sum(-1) - torch.square(mu)
    for k in (0.1, 0.2, 1.0):
        worst = np.sort(((own - mu) / sigma.sqrt()).numpy())[: int(30 * k)]
        assert build("metric", "min-k-plus-plus", k=k)(logprobs, ids) == pytest.approx(worst.mean(), abs=1e-12)
        worst = np.sort(own.numpy())[: int(30 * k)]
        assert build("metric", "min-k-percent", k=k)(logprobs, ids) == pytest.approx(worst.mean(), abs=1e-12)
    flat = torch.full((3, 4), 0.25).log()
    assert build("metric", "min-k")(flat, torch.zeros(3)) == 0  # nothing is known where every token is as probable
    with pytest.raises(SpecError, match="k: 0"):
        build("metric", "min-k", k=0)
