"""Row tokenizer/subword-regularization: segmentations drawn as often as probable, and as the library draws them."""

from __future__ import annotations

import collections
import random

import numpy as np
import pytest
from _spm import PHRASES, trained

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")
stats = pytest.importorskip("scipy.stats")
LEAST = 1e-4  # chance that a right sampler fails a test


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    data = trained(byte_fallback=True, normalization_rule_name="identity")
    path = tmp_path_factory.mktemp("m") / "m.model"
    path.write_bytes(data)
    return load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_proto=data)


def every_path(tokenizer, text):
    """All segmentations of a text without unknown characters: `(ids, score)`, best first."""
    normal = "\u2581" + text.replace(" ", "\u2581")
    known = {piece.text: (id, piece.score) for id, piece in enumerate(tokenizer.pieces) if piece.type == 1}
    paths = [[((), 0.0)]] + [[] for _ in normal]
    for start in range(len(normal)):
        for stop in range(start + 1, len(normal) + 1):
            if normal[start:stop] in known:
                id, score = known[normal[start:stop]]
                paths[stop] += [((*ids, id), total + score) for ids, total in paths[start]]
    return sorted(paths[-1], key=lambda path: -path[1])


def p_value(observed, expected):
    """Of a chi-square test; rare cells are put together."""
    often = expected >= 5
    o, e = np.append(observed[often], observed[~often].sum()), np.append(expected[often], expected[~often].sum())
    there = e > 0
    return stats.chi2.sf((((o - e) ** 2)[there] / e[there]).sum(), there.sum() - 1)


@pytest.mark.parametrize(("alpha", "nbest"), [(0.1, -1), (0.5, -1), (1.0, -1), (0.0, -1), (0.3, 8), (1.0, 3)])
@pytest.mark.parametrize("text", ["the fox", "hello world"])
def test_frequencies_equal_the_enumerated_lattice(models, text, alpha, nbest):
    ours, _ = models
    paths = every_path(ours, text)
    paths = paths if nbest < 0 else paths[:nbest]
    assert len(paths) > 5 or nbest > 0
    weights = np.exp(alpha * np.array([score for _, score in paths]))
    draws = 6000
    found = collections.Counter(tuple(ours.sample(text, seed=s, alpha=alpha, nbest=nbest)) for s in range(draws))
    assert set(found) <= {ids for ids, _ in paths}
    observed = np.array([found[ids] for ids, _ in paths], float)
    assert p_value(observed, draws * weights / weights.sum()) > LEAST
    assert len(found) > 1  # it does something
    other = np.exp((alpha + 0.7) * np.array([score for _, score in paths]))
    assert p_value(observed, draws * other / other.sum()) < LEAST  # and the test can tell


@pytest.mark.parametrize(("alpha", "nbest"), [(0.1, -1), (0.5, -1), (0.2, 16)])
def test_frequencies_equal_the_library(models, alpha, nbest):
    ours, theirs = models
    draws = 6000
    for text in ("the lazy dog", "x中 the quick éz"):
        mine = collections.Counter(tuple(ours.sample(text, seed=s, alpha=alpha, nbest=nbest)) for s in range(draws))
        drawn = theirs.encode([text] * draws, enable_sampling=True, alpha=alpha, nbest_size=nbest)
        other = collections.Counter(map(tuple, drawn))
        cells = sorted(mine.keys() | other.keys())
        table = np.array([[mine[c] for c in cells], [other[c] for c in cells]], float)
        often = table.sum(0) >= 10
        table = np.column_stack([table[:, often], table[:, ~often].sum(1)])
        table = table[:, table.sum(0) > 0]
        assert table.shape[1] > 3 and stats.chi2_contingency(table).pvalue > LEAST


def test_a_seed_decides_and_nothing_else(models):
    ours, _ = models
    text = " ".join(PHRASES)
    first = [ours.sample(text, seed=s) for s in range(20)]
    random.seed(5)
    np.random.seed(5)
    ours.sample("something else", seed=9, alpha=0.9)
    ours.encode(text)
    assert [ours.sample(text, seed=s) for s in reversed(range(20))] == first[::-1]
    assert len(set(map(tuple, first))) == 20
    assert ours.sample(text, seed=1 << 70) == ours.sample(text, seed=0)  # the lowest 64 bits count
    assert len({tuple(ours.sample(text, seed=s, nbest=4)) for s in range(40)}) > 1


def test_every_draw_spells_the_text():
    for model in ("unigram", "bpe"):
        made = train_tokenizer("sentencepiece", PHRASES * 5, vocab_size=700, model=model)
        for text in (*PHRASES, "", " ", "\0\u2581x\n", "a" * 500, "unseen 漢字 here", "\ud800x"):
            for alpha in (0.0, 0.1, 1.0):
                drawn = made.sample(text, seed=3, alpha=alpha)
                assert made.decode(drawn) == made.decode(made.encode(text)), (text, alpha)
            assert made.decode(made.sample(text, seed=3, nbest=5)) == made.decode(made.encode(text))


def test_limits(models):
    ours, _ = models
    text = "the quick brown fox"
    for nbest in (0, 1):
        assert ours.sample(text, seed=1, nbest=nbest) == ours.encode(text)
    assert ours.sample(text, seed=1, alpha=1e6) == ours.encode(text)  # so sharp that the best is all there is
    assert ours.sample(text, seed=1, alpha=1e6, nbest=5) == ours.encode(text)
    bpe = train_tokenizer("sentencepiece-bpe", PHRASES * 5, vocab_size=700)
    assert bpe.sample(text, seed=1, alpha=0.0) == bpe.encode(text)
    assert len(bpe.sample(text, seed=1, alpha=1.0)) == len(text)  # no merge at all
    assert len({tuple(bpe.sample(text, seed=s, alpha=0.3)) for s in range(20)}) > 5
    long = "ab cd " * 20_000
    assert ours.decode(ours.sample(long, seed=1)) == ours.decode(ours.encode(long))
    assert ours.decode(ours.sample(long, seed=1, nbest=3)) == ours.decode(ours.encode(long))


def test_settings_that_cannot_be(models):
    ours, _ = models
    for settings, message in (
        ({"seed": 1.5}, "seed: expected a whole number"), ({"seed": True}, "seed: expected a whole number"),
        ({"seed": 1, "alpha": -0.1}, "alpha: expected a number from 0 on"),
        ({"seed": 1, "alpha": float("nan")}, "alpha: expected a number from 0 on"),
        ({"seed": 1, "nbest": 513}, "nbest: expected -1"), ({"seed": 1, "nbest": 2.0}, "nbest: expected -1"),
        ({"seed": None, "nbest": 1}, "seed: expected a whole number"),
    ):  # fmt: skip
        with pytest.raises(TokenizerError, match=message):
            ours.sample("text", **settings)
    with pytest.raises(TokenizerError, match="expected str, got bytes"):
        ours.sample(b"text", seed=1)
