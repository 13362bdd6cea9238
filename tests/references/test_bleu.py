"""BLEU, chrF and their significance tests against sacrebleu."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.metrics.bleu import bleu
from llmanac.metrics.chrf import chrf
from llmanac.metrics.rouge import rouge
from llmanac.metrics.significance import SEED, _swapped, significance

PARTS = [
    *"abc12 .,-;&<>|'\"é\xa0\u3000\x85\x1c\x07\n\t$€%()Σ",
    "-\n",
    "&amp;",
    "<skipped>",
    "&quot;",
    "..",
    ",.",
    "1.2",
]
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    ",",
    ".",
    "red",
    "big",
    "3.5",
    "well-known",
    "ran",
    "house",
    "of",
    "in",
    "It's",
    "(two)",
]


def noise(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(PARTS, k=rng.randint(0, 30))) for _ in range(count)]


def sentences(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 20))) for _ in range(count)]


def changed(texts, rate, seed):
    """Each word is left out, doubled or replaced at a rate: a system that is perturbed by a stated rule."""
    rng = random.Random(seed)
    out = []
    for text in texts:
        words = []
        for word in text.split(" "):
            words += [word] if rng.random() > rate else rng.choice([[], [word, word], [rng.choice(WORDS)]])
        out.append(" ".join(words))
    return out


CORPORA = [
    (changed(sentences(60, 0), 0.2, 1), sentences(60, 0)),
    ([*noise(150, 2), "a"], [*(a if i % 3 else b for i, (a, b) in enumerate(zip(noise(150, 2), noise(150, 3)))), "a"]),  # noqa: B905
    (["the cat"], ["the cat sat on a mat"]),
    (["x y z"], ["a b"]),
]


@pytest.mark.parametrize("tokenizer", ["13a", "none", "intl", "char"])
@pytest.mark.parametrize("smoothing", ["exp", "floor", "add-k", "none"])
def test_scores_equal_sacrebleu(tokenizer, smoothing):
    for lower, effective in ((False, False), (True, True), (False, True)):
        for mine, theirs in CORPORA:
            peer = BLEU(
                tokenize=tokenizer, smooth_method=smoothing, lowercase=lower, effective_order=effective, force=True
            )
            expected = peer.corpus_score(mine, [theirs])
            found = bleu(
                mine, theirs, tokenizer=tokenizer, smoothing=smoothing, case="lower" if lower else "mixed",
                order_rule="effective" if effective else "fixed",
            )  # fmt: skip
            assert found.value == pytest.approx(expected.score, abs=1e-9)
            assert found.signature == str(peer.get_signature())
            assert found.sums[:2].tolist() == [expected.sys_len, expected.ref_len]
            if smoothing != "add-k":  # sacrebleu adds k to the counts that it returns
                assert found.sums[2:].tolist() == [*expected.counts, *expected.totals]


def test_sentences_and_several_references_equal_sacrebleu():
    mine, theirs = CORPORA[0]
    peer = BLEU(effective_order=True)
    expected = [peer.sentence_score(text, [target]).score for text, target in zip(mine, theirs, strict=True)]
    np.testing.assert_allclose(bleu(mine, theirs).sentences, expected, atol=1e-9)
    others = [theirs, changed(theirs, 0.3, 4), changed(mine, 0.5, 5)]
    rows = list(zip(*others, strict=True))
    for name, peer in (("bleu", BLEU()), ("chrf++", CHRF(word_order=2))):
        found = build("metric", name)(mine, rows)
        assert found.value == pytest.approx(peer.corpus_score(mine, others).score, abs=1e-9)
        assert found.signature == str(peer.get_signature())
    columns = [theirs, [*others[1][:-1], None]]
    peer = BLEU()
    expected = peer.corpus_score(mine, columns).score
    found = bleu(mine, [[x for x in row if x is not None] for row in zip(*columns, strict=True)])
    assert found.value == pytest.approx(expected, abs=1e-9) and found.signature == str(peer.get_signature())


@pytest.mark.parametrize("words", [0, 2])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("space", [False, True])
def test_chrf_equals_sacrebleu(words, lower, space):
    for mine, theirs in CORPORA:
        peer = CHRF(word_order=words, lowercase=lower, whitespace=space)
        expected = peer.corpus_score(mine, [theirs])
        found = chrf(
            mine, theirs, word_order=words, case="lower" if lower else "mixed", space="kept" if space else "dropped"
        )
        assert found.value == pytest.approx(expected.score, abs=1e-9)
        assert (found.name, found.signature) == (expected.name, str(peer.get_signature()))


@pytest.mark.parametrize("segments", [60, 7])
@pytest.mark.parametrize("test", ["randomization", "bootstrap"])
def test_significance_equals_sacrebleu(test, segments):
    targets = sentences(60, 6)[:segments]
    base = changed(targets, 0.2, 7)
    for other in (changed(targets, 0.15, 8), changed(base, 0.01, 9), base):
        peer = PairedTest(
            [("base", base), ("other", other)], {"BLEU": BLEU(), "chrF2": CHRF()}, [targets],
            test_type={"randomization": "ar", "bootstrap": "bs"}[test], n_samples=600,
        )  # fmt: skip
        _, expected = peer()
        for name, metric in (("BLEU", bleu), ("chrF2", chrf)):
            old, new = metric(base, targets), metric(other, targets)
            found = significance(old, new, test=test, trials=600)
            ties = 0
            if test == "randomization":  # draws with the same difference are no evidence; sacrebleu takes them for one
                drawn = _swapped(old, new, 600, np.random.default_rng(SEED))
                ties = int(np.isclose(drawn, abs(found.difference), rtol=1e-9, atol=0).sum())
            theirs = expected[name][1].p_value
            if other is base:
                assert found.p == 1
            elif ties:
                assert theirs <= found.p <= theirs + ties / 601 + 1e-12
            else:
                assert found.p == theirs
            assert found.difference == pytest.approx(expected[name][1].score - expected[name][0].score)
            if test == "bootstrap":
                low, high = new.interval(samples=600)
                assert (high - low) / 2 == pytest.approx(expected[name][1].ci, rel=1e-5)


def test_any_metric_with_segments_can_be_tested():
    targets = sentences(80, 10)
    worse, better = (rouge(changed(targets, rate, 11), targets).measured("rougeL") for rate in (0.5, 0.1))
    found = significance(worse, better, trials=500)
    assert found.difference > 0.2 and found.p < 0.01
    assert significance(better, better, trials=500).p == 1  # no trial differs by less than nothing
    with pytest.raises(DataError, match="do not compare"):
        significance(worse, bleu(targets, targets))
    with pytest.raises(DataError, match="80 segments and the system 79"):
        significance(worse, rouge(targets[1:], targets[1:]).measured("rougeL"))


def test_long_corpora_equal_sacrebleu(shared_data):
    mine, theirs = (
        (shared_data / "bertscore" / f"{side}_long.txt").read_text("utf-8").split("\n")[:500]
        for side in ("hyps", "refs")
    )
    for tokenizer in ("13a", "intl"):
        peer = BLEU(tokenize=tokenizer)
        assert bleu(mine, theirs, tokenizer=tokenizer).value == pytest.approx(
            peer.corpus_score(mine, [theirs]).score, abs=1e-9
        )


def test_what_cannot_be_scored_is_named():
    with pytest.raises(DataError, match="row 2: has no reference"):
        bleu(["a", "b"], ["a", []])
    with pytest.raises(DataError, match="give lists"):
        chrf("a", "b")
    with pytest.raises(SpecError, match="order"):
        build("metric", "bleu", order=0)
    assert bleu(["\ud800 a b c d"], ["\ud800 a b c d"]).value == pytest.approx(100)
