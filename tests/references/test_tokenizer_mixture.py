"""Rows tokenizer/upsampling and tokenizer/domain-mixing: shares in closed form, exact counts, and what they buy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from _catalogues import messages
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core import registry
from llmanac.core.errors import DataError, SpecError
from llmanac.tokenizers import Mixture, VocabularyMixtureSpec, parse_weights
from llmanac.tokenizers._mixture import apportion, shares
from llmanac.tokenizers.load import mixture, train_tokenizer

many = settings(max_examples=60, deadline=None)
AMOUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**9), min_size=1)


@many
@given(amounts=AMOUNTS, alpha=st.floats(0, 2))
def test_shares_are_the_closed_form(amounts, alpha):
    found = shares(amounts, alpha=alpha)
    total = sum(amounts.values())
    powers = {name: (n / total) ** alpha for name, n in amounts.items()}
    assert sum(found.values()) == 1
    for name in amounts:
        assert float(found[name]) == pytest.approx(powers[name] / math.fsum(powers.values()), rel=1e-9)


def test_shares_by_hand():
    amounts = {"en": 9900, "sw": 100}
    assert {k: round(float(v), 4) for k, v in shares(amounts, alpha=0.3).items()} == {"en": 0.7988, "sw": 0.2012}
    assert shares(amounts) == shares(amounts, alpha=1) == {"en": Fraction(99, 100), "sw": Fraction(1, 100)}
    assert shares(amounts, alpha=0) == {"en": Fraction(1, 2), "sw": Fraction(1, 2)}
    assert shares(amounts, weights={"en": 3, "sw": 1}) == {"en": Fraction(3, 4), "sw": Fraction(1, 4)}


@many
@given(amounts=AMOUNTS, total=st.integers(0, 10**7))
def test_largest_remainders_add_up_and_are_nearest(amounts, total):
    parts = shares(amounts, alpha=0.5)
    found = apportion(parts, total)
    assert sum(found.values()) == total
    for name, part in parts.items():
        assert abs(found[name] - part * total) < 1  # quota: the whole part, or one more
    up = [name for name in found if found[name] > parts[name] * total]
    down = [name for name in found if found[name] < parts[name] * total]
    for a, b in itertools.product(up, down):  # who was rounded up had the larger remainder
        assert (parts[a] * total) % 1 >= (parts[b] * total) % 1


@many
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=4),
    alpha=st.floats(0, 1.5),
    factor=st.integers(1, 5),
)
def test_documents_are_taken_exactly_as_often_as_stated(sizes, alpha, factor):
    groups = {f"g{i}": [f"{i}.{j}".ljust(n + 4, "x") for j, n in enumerate(row)] for i, row in enumerate(sizes)}
    total = factor * sum(map(len, groups.values()))
    mixed = mixture(groups, alpha=alpha, unit="documents", total=total)
    taken = Counter(mixed)
    wanted = apportion(shares({name: len(texts) for name, texts in groups.items()}, alpha=alpha), total)
    assert sum(taken.values()) == total == sum(group.taken for group in mixed.groups)
    for name, texts in groups.items():
        times = [taken[text] for text in texts]
        assert sum(times) == wanted[name]
        assert max(times) - min(times) <= 1  # no document counts much more than another
    assert list(mixed) == list(mixed)


@many
@given(
    sizes=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=2, max_size=4), alpha=st.floats(0, 1)
)
def test_bytes_are_met_to_half_a_document(sizes, alpha):
    groups = {f"g{i}": [f"{i}.{j}".ljust(n + 4, "é") for j, n in enumerate(row)] for i, row in enumerate(sizes)}
    mixed = mixture(groups, alpha=alpha)
    taken = Counter(mixed)
    for group in mixed.groups:
        texts = groups[group.name]
        got = sum(taken[text] * len(text.encode()) for text in texts)
        assert abs(got - group.taken) <= max(len(text.encode()) for text in texts) / 2
        assert max(taken[text] for text in texts) - min(taken[text] for text in texts) <= 1
    assert sum(group.taken for group in mixed.groups) == sum(
        len(t.encode()) for texts in groups.values() for t in texts
    )


@pytest.mark.parametrize("name", sorted(registry.methods("tokenizer")))
def test_a_choice_of_every_tokenizer(name):
    groups = {"en": ["the cat sat on the mat "] * 40, "xx": ["zyzzyva quokka "] * 2}
    fair = train_tokenizer(name, groups, weights={"en": 0.5, "xx": 0.5})
    mixed = mixture(groups, weights={"en": 0.5, "xx": 0.5})
    assert fair.fingerprint() == train_tokenizer(name, list(mixed)).fingerprint()
    as_is = train_tokenizer(name, groups)
    assert (
        as_is.fingerprint()
        == train_tokenizer(name, [text for texts in groups.values() for text in texts]).fingerprint()
    )


LANGUAGES = ("en", "de", "ru", "hi")


@pytest.fixture(scope="module")
def multilingual() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """`(training texts, held-out texts)` by language: English in plenty, three others in little."""
    train: dict[str, list[str]] = {}
    held: dict[str, list[str]] = {}
    for language in LANGUAGES:
        found = messages("de" if language == "en" else language)
        texts = list(found) if language == "en" else list(found.values())
        held[language], rest = texts[::5], [text for i, text in enumerate(texts) if i % 5]
        train[language] = rest * 12 if language == "en" else rest
    return train, held


def bytes_per_token(tokenizer, texts) -> float:
    return sum(len(t.encode()) for t in texts) / sum(map(len, tokenizer.encode_batch(texts)))


def test_upsampling_mends_the_compression_of_the_under_represented(multilingual):
    train, held = multilingual
    found = {
        alpha: {
            language: bytes_per_token(train_tokenizer("bpe", train, alpha=alpha, vocab_size=1500), held[language])
            for language in LANGUAGES
        }
        for alpha in (1.0, 0.3)
    }
    for language in ("de", "ru", "hi"):
        assert found[0.3][language] > found[1.0][language] * 1.03, (language, found)
    assert found[0.3]["en"] < found[1.0]["en"]  # it is not free


def test_a_domain_needs_its_own_tokens(multilingual):
    train, held = multilingual
    for one, other in (("de", "ru"), ("ru", "de")):
        mixes = [
            train_tokenizer("bpe", train, weights={n: float(n == w) for n in train}, vocab_size=1000)
            for w in (one, other)
        ]
        assert bytes_per_token(mixes[0], held[one]) > bytes_per_token(mixes[1], held[one]) * 1.3


def test_files_iterators_and_weights_of_nothing(tmp_path):
    (tmp_path / "en.txt").write_text("the cat sat on the mat and looked around " * 2000, "utf-8")
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "a.txt").write_text("die Katze saß auf der Matte " * 50, "utf-8")
    files = {"en": tmp_path / "en.txt", "de": tmp_path / "de"}
    mixed = mixture(files, weights={"en": 0.25, "de": 0.75})
    sizes = {"en": 82_000, "de": 1450}
    assert {g.name: g.bytes for g in mixed.groups} == sizes
    got = Counter()
    for text in mixed:
        got["de" if "Katze" in text else "en"] += len(text.encode())
    assert got["en"] == pytest.approx(0.25 * 83_450, abs=4200) and got["de"] == pytest.approx(0.75 * 83_450, abs=1450)
    one = mixture({"en": iter(["a b", "c d"]), "de": (text for text in ["x y"])}, alpha=0.0, unit="documents", total=8)
    assert Counter(one) == {"a b": 2, "c d": 2, "x y": 4}
    left_out = mixture({"en": ["a"], "de": ["b"]}, weights={"en": 1, "de": 0}, unit="documents")
    assert list(left_out) == ["a", "a"]


def test_a_small_group_may_be_repeated_as_often_as_its_share_asks():
    groups = {"en": ["a" * 5000], "de": ["b"]}
    for total in (None, 5001):  # as much as there is, which cannot run away
        assert list(mixture(groups, alpha=0, total=total)).count("b") > 2000
    with pytest.raises(SpecError, match="the text of 'de' more than 1,000 times; take 5,001 at most"):
        mixture(groups, alpha=0, total=5002)


def test_errors_say_what_to_do():
    groups = {"en": ["a b"], "de": ["c d"]}
    cases = [
        ({"weights": {"en": 1.0}}, "weights: the group 'de' has none; give it one, 0 to leave it out"),
        ({"weights": {"en": 1.0, "de": 1.0, "dee": 1}}, "weights: there is no group 'dee'; did you mean 'de'"),
        ({"weights": {"en": -1, "de": 1}}, "weights: en=-1 is not a number from 0 on"),
        ({"weights": {"en": math.nan, "de": 1}}, "weights: en=nan is not a number"),
        ({"weights": {"en": math.inf, "de": 1}}, "weights: en=inf is not a number"),
        ({"weights": {"en": 0, "de": 0}}, "weights: all are 0"),
        ({"alpha": -0.1}, "alpha: -0.1 is not an exponent"),
        ({"alpha": math.nan}, "alpha: nan is not an exponent"),
        ({"alpha": "0.3"}, "alpha: '0.3' is not an exponent"),
        ({"alpha": 0.3, "weights": {"en": 1, "de": 1}}, "give alpha or weights, not both"),
        ({"unit": "tokens"}, "unit: 'tokens' is neither"),
        ({"total": 0}, "total: 0 is not a whole number of bytes above 0"),
        (
            {"total": 10**12},
            "total: 1,000,000,000,000 bytes would repeat the text of 'en' more than 1,000 times; .* 6,000",
        ),
        (
            {"weights": {"en": 3, "de": 1}, "total": 4001},
            "total: 4,001 bytes .* 'en' more than 1,000 times; take 4,000",
        ),
    ]
    for choices, message in cases:
        with pytest.raises(SpecError, match=message):
            mixture(groups, **choices)
    with pytest.raises(DataError, match="the group 'de' has no text"):
        train_tokenizer("word", {"en": ["a"], "de": [""]}, alpha=0.3)
    with pytest.raises(DataError, match="a text of 'de' is int, not str"):
        Mixture(lambda: [("de", 3)])
    with pytest.raises(DataError, match="there is no text in any group"):
        mixture({})
    with pytest.raises(SpecError, match=r"tokenizer/bpe.alpha: no such field"):
        train_tokenizer("bpe", ["a b"], alpha=0.3)
    with pytest.raises(SpecError, match="'de' is no group=number"):
        parse_weights(["de"])
    with pytest.raises(SpecError, match="weights: 'de' is given twice"):
        VocabularyMixtureSpec(weights=("de=1", "de=2"))
    assert parse_weights(["a=b=0.5", "de=1"]) == {"a=b": 0.5, "de": 1.0}


def test_a_recipe_states_the_mixture_of_its_vocabulary():
    from llmanac.data.documents import Document
    from llmanac.recipes.spec import load_recipe

    base = {"data": {"source": {"name": "files", "paths": ["x"]}}}
    documents = [Document(f"en/{i}.txt", "the cat sat on the mat", "g", {"kind": "prose"}) for i in range(9)]
    documents += [Document("de/a.txt", "die Katze saß auf der Matte", "h", {"kind": "prose"})]
    plain = load_recipe(base).spec.data
    assert list(plain.vocabulary_texts(documents)) == [document.text for document in documents]
    for by, label in (("folder", "de"), ("group", "h")):
        patched = {"data.vocabulary.alpha": 0.0, "data.vocabulary.by": by, "data.vocabulary.unit": "documents"}
        mixed = load_recipe(base, patched).spec.data.vocabulary_texts(documents)
        assert sum("Katze" in text for text in mixed) == 5 and len(list(mixed)) == 10
        assert {group.name: group.taken for group in mixed.groups}[label] == 5
    weights = load_recipe(base, {"data.vocabulary.weights": ["en=1", "de=3"]}).spec.data.vocabulary_texts(documents)
    assert {group.name: group.share for group in weights.groups} == {"en": 0.25, "de": 0.75}
    one = load_recipe(base, {"data.vocabulary.by": "kind"}).spec.data.vocabulary_texts(documents)
    assert [group.name for group in one.groups] == ["prose"]
    with pytest.raises(DataError, match=r"document en/0.txt: has no 'knd' to go by; did you mean 'kind'"):
        load_recipe(base, {"data.vocabulary.by": "knd"}).spec.data.vocabulary_texts(documents)
    assert Document("a.txt", "", "g", {"input": "a.txt"}).label("folder") == "a.txt"
