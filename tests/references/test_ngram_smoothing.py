"""Every smoothing against nltk where nltk is right, and against its formula over dictionaries in float64."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from _ngrams import END, START, continuation_counts, distribution, model_of, plain_counts, scored, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.models.smoothing.good_turing import lowered
from llmanac.models.smoothing.modified_kneser_ney import FALLBACK, ModifiedKneserNey

VOCABULARY = 40
FLOAT32 = 2e-6  # log-probabilities are kept as float32


def contexts(rows: list[list[int]], length: int, seed: int = 0) -> list[list[int]]:
    """Contexts that were seen, and as many that mostly were not."""
    rng = random.Random(seed)
    seen = [row[i : i + length] for row in rows[:40] for i in range(len(row) - length)][:60]
    return seen + [[rng.randrange(2, VOCABULARY) for _ in range(length)] for _ in range(20)]


@pytest.mark.parametrize("order", [2, 3])
def test_mle_equals_nltk(order: int) -> None:
    lm = pytest.importorskip("nltk.lm")
    util = pytest.importorskip("nltk.util")
    rows = sentences()
    theirs = lm.MLE(order)
    theirs.fit(
        [util.everygrams([str(t) for t in row], max_len=order) for row in rows], [str(t) for t in range(VOCABULARY)]
    )
    ours = model_of(rows, VOCABULARY, order, "mle")
    seen = {g[:-1] for g in plain_counts(rows, order)[order - 1]}
    compared = 0
    for context in map(tuple, contexts(rows, order - 1)):
        if context not in seen:
            continue
        for token in range(1, VOCABULARY):
            expected = theirs.score(str(token), [str(t) for t in context])
            assert scored(ours, list(context), token) == pytest.approx(expected, rel=FLOAT32, abs=1e-30)
            compared += expected > 0
    assert compared > 100


@pytest.mark.parametrize("k", [1.0, 0.05])
@pytest.mark.parametrize("order", [2, 3])
def test_add_k_equals_nltk(order: int, k: float) -> None:
    """Contexts that were never seen included: every token is equally likely there."""
    lm = pytest.importorskip("nltk.lm")
    util = pytest.importorskip("nltk.util")
    rows = sentences()
    vocabulary = lm.Vocabulary([str(t) for t in range(VOCABULARY - 1)], unk_label="unknown")  # with it, VOCABULARY
    theirs = lm.Lidstone(k, order, vocabulary=vocabulary)
    theirs.fit([util.everygrams([str(t) for t in row], max_len=order) for row in rows])
    assert len(theirs.vocab) == VOCABULARY
    ours = model_of(rows, VOCABULARY, order, "add-k", k=k)
    for context in contexts(rows, order - 1):
        if max(context) >= VOCABULARY - 1:
            continue
        p = distribution(ours, context)
        for token in range(VOCABULARY - 1):
            expected = theirs.score(str(token), [str(t) for t in context])
            assert p[token] == pytest.approx(expected, rel=FLOAT32)
            assert scored(ours, context, token) == pytest.approx(expected, rel=FLOAT32)


def kneser_ney(rows, order, discounts, context, token) -> float:
    """Interpolated Kneser-Ney by its definition. discounts: `[k - 1][a]`, the last for all larger a."""
    counts = continuation_counts(rows, order)
    p = 1 / (VOCABULARY - 1)  # all but the start token
    for k in range(1, min(order, len(context) + 1) + 1):
        h = tuple(context[len(context) - k + 1 :]) if k > 1 else ()
        after = {g: a for g, a in counts[k - 1].items() if g[:-1] == h}
        total = sum(after.values())
        if not total:
            break

        def d(a: int, k: int = k) -> float:
            return 0.0 if not a else discounts[k - 1][min(a, len(discounts[k - 1])) - 1]

        a = after.get((*h, token), 0)
        p = (a - d(a)) / total + sum(map(d, after.values())) / total * p
    return p


def n_of(counts: dict, r: int) -> int:
    return sum(a == r for a in counts.values())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_equals_its_definition(order: int) -> None:
    rows = sentences(1)
    ours = model_of(rows, VOCABULARY, order, "kneser-ney")
    counts = continuation_counts(rows, order)
    discounts = [[n_of(c, 1) / (n_of(c, 1) + 2 * n_of(c, 2))] for c in counts]
    np.testing.assert_allclose([d[0] for d in ours.about["discounts"]], [d[0] for d in discounts], rtol=1e-12)
    for context in contexts(rows, max(1, order - 1))[::8]:
        for token in range(1, VOCABULARY, 3):
            expected = kneser_ney(rows, order, discounts, context[-(order - 1) :] if order > 1 else [], token)
            assert scored(ours, context, token) == pytest.approx(expected, rel=FLOAT32)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_modified_kneser_ney_equals_its_definition(order: int) -> None:
    rows = sentences(2, 600)
    ours = model_of(rows, VOCABULARY, order, "modified-kneser-ney")
    discounts = []
    for c in continuation_counts(rows, order):
        n = [n_of(c, r) for r in range(5)]
        closed = all(n[1:4])
        y = n[1] / (n[1] + 2 * n[2]) if closed else 0.0
        found = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)] if closed else [-1.0]
        discounts.append(found if all(0 <= d <= i for i, d in enumerate(found, 1)) else [0.5, 1.0, 1.5])
    np.testing.assert_allclose(ours.about["discounts"], discounts, rtol=1e-12)
    assert order == 1 or any(d != [0.5, 1.0, 1.5] for d in discounts)
    for context in contexts(rows, max(1, order - 1))[::8]:
        for token in range(1, VOCABULARY, 3):
            expected = kneser_ney(rows, order, discounts, context[-(order - 1) :] if order > 1 else [], token)
            assert scored(ours, context, token) == pytest.approx(expected, rel=FLOAT32)


def test_kneser_ney_equals_nltk_at_order_2() -> None:
    """nltk leaves the unigrams as they are and has one discount for all; that part of ours is taken away first."""
    lm = pytest.importorskip("nltk.lm")
    util = pytest.importorskip("nltk.util")
    rows, d = sentences(3), 0.6
    theirs = lm.KneserNeyInterpolated(2, discount=d)
    theirs.fit([util.everygrams([str(t) for t in row], max_len=2) for row in rows], [str(t) for t in range(VOCABULARY)])
    ours = model_of(rows, VOCABULARY, 2, "kneser-ney", discount=d)
    counts = continuation_counts(rows, 2)
    compared = 0
    for (h, token), a in list(counts[1].items())[::7]:
        if token == START:
            continue
        total = sum(b for g, b in counts[1].items() if g[0] == h)
        gamma = d * sum(g[0] == h for g in counts[1]) / total
        unigram = counts[0][(token,)] / sum(counts[0].values())
        direct = scored(ours, [h], token) - gamma * scored(ours, [], token)
        assert direct == pytest.approx(max(a - d, 0) / total, rel=1e-4)
        assert direct + gamma * unigram == pytest.approx(theirs.score(str(token), [str(h)]), rel=1e-4)
        compared += 1
    assert compared > 20


def good_turing(counts: list[Counter], largest: int, context: list[int], token: int) -> float:
    """Katz's back-off by its definition."""
    k = len(context) + 1
    own = counts[k - 1]
    n = [n_of(own, r) for r in range(largest + 2)]
    kept = {r: float(r) for r in set(own.values())}
    for top in range(largest, 1, -1):
        if not all(n[1 : top + 2]) or (top + 1) * n[top + 1] >= n[1]:
            continue
        a = (top + 1) * n[top + 1] / n[1]
        d = {r: ((r + 1) * n[r + 1] / n[r] / r - a) / (1 - a) for r in range(1, top + 1)}
        if all(0 < v <= 1 for v in d.values()):
            kept |= {r: v * r for r, v in d.items()}
            break
    else:
        kept |= {r: r - 0.5 for r in range(1, largest + 1)}
    after = {g[-1]: r for g, r in own.items() if g[:-1] == tuple(context)}
    total = sum(after.values())
    if k == 1:
        if token in after:
            return kept[after[token]] / total
        unseen = [t for t in range(1, VOCABULARY) if t not in after]
        return (total - sum(kept[r] for r in after.values())) / total / len(unseen)
    if not after:
        return good_turing(counts, largest, context[1:], token)
    seen = sum(kept[r] for r in after.values())
    total += 0 if total - seen > 1e-9 else 1
    if token in after:
        return kept[after[token]] / total
    shorter = 1 - sum(good_turing(counts, largest, context[1:], t) for t in after)
    return (total - seen) / total / shorter * good_turing(counts, largest, context[1:], token)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_good_turing_equals_its_definition(order: int) -> None:
    rows = sentences(4, 800)
    ours, counts = model_of(rows, VOCABULARY, order, "good-turing"), plain_counts(rows, order)
    for context in contexts(rows, max(1, order - 1))[::5]:
        for token in range(1, VOCABULARY, 3):
            expected = good_turing(counts, 5, context if order > 1 else [], token)
            assert scored(ours, context, token) == pytest.approx(expected, rel=1e-5)


def test_good_turing_gives_what_is_unseen_n1_over_n() -> None:
    """Good's estimate of the mass of all that never occurred, at the first order."""
    values = np.repeat([1, 2, 3, 4, 5, 6, 40], [50, 22, 13, 9, 6, 5, 3])
    kept = lowered(values, 5)
    taken = values.sum() - sum(kept[r] if r < len(kept) else r for r in values)
    assert kept[1] < 1 and taken == pytest.approx(50)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(2, 6), max_size=6), min_size=1, max_size=12),
    st.sampled_from(["mle", "add-k", "good-turing", "kneser-ney", "modified-kneser-ney"]),
    st.integers(1, 4),
)
def test_every_distribution_sums_to_one(bodies: list[list[int]], name: str, order: int) -> None:
    """By enumeration, whatever was counted: tiny corpora take every way out that a formula has."""
    rows = [[START, *body, END] for body in bodies]
    trie = model_of(rows, 8, order, name)
    for context in itertools.islice(itertools.product(range(8), repeat=min(2, order)), 0, 64, 3):
        p = distribution(trie, list(context))
        assert p.sum() == pytest.approx(1, abs=2e-6) and p.min() >= 0
        by_token = [scored(trie, list(context), t) for t in range(8)]
        np.testing.assert_allclose(by_token, p, rtol=1e-5, atol=1e-30)


def test_smoothings_differ_and_order_helps() -> None:
    rows, held_out = sentences(6, 2000), sentences(7, 100)
    losses = {}
    for name in ("add-k", "good-turing", "kneser-ney", "modified-kneser-ney"):
        for order in (1, 2):
            trie = model_of(rows, VOCABULARY, order, name)
            losses[name, order] = -np.mean(
                [np.log(scored(trie, r[:i], r[i])) for r in held_out for i in range(1, len(r))]
            )
    assert len(set(losses.values())) == len(losses)
    for name in ("add-k", "good-turing", "kneser-ney", "modified-kneser-ney"):
        assert losses[name, 2] < losses[name, 1] - 0.1, name
    assert losses["modified-kneser-ney", 2] < losses["add-k", 2]


def test_discounts_fall_back_where_the_counts_do_not_allow_the_formula() -> None:
    smoothing = ModifiedKneserNey()
    np.testing.assert_array_equal(smoothing.discount(np.array([1, 1, 2])), FALLBACK)  # no count of 3
    np.testing.assert_array_equal(smoothing.discount(np.repeat([1, 2, 3], [10, 1, 5])), FALLBACK)  # D2 is below 0
    y = 3 / (3 + 2 * 2)
    expected = [0, 1 - 2 * y * 2 / 3, 2 - 3 * y * 1 / 2, 3.0]  # without a count of 4 the third is 3, as KenLM has it
    np.testing.assert_allclose(smoothing.discount(np.array([1, 1, 1, 2, 2, 3])), expected)


@pytest.mark.parametrize("name, field", [("add-k", "k"), ("kneser-ney", "discount"), ("good-turing", "largest")])
def test_senseless_choices_name_their_field(name: str, field: str) -> None:
    with pytest.raises(SpecError, match=field):
        make_method("smoothing", {"name": name, field: -1 if name == "good-turing" else -0.5})
