"""The words and sentences that filters count are those of spaCy's blank English pipeline, as datatrove uses it."""

from __future__ import annotations

import numpy as np
import pytest
from _texts import made, real
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.kernels.english.classes import table
from llmanac.kernels.english.rules import special_cases
from llmanac.kernels.english.words import code_points, sentences, tables, words

pytest.importorskip("spacy")
pytest.importorskip("datatrove")
from datatrove.utils.word_tokenizers import load_word_tokenizer


def split_words(text: str) -> list[str]:
    starts, ends = words(code_points(text), *tables())
    return [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def count_sentences(lines: list[str]) -> list[int]:
    text = code_points("".join(lines))
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if lines else ends
    return sentences(text, starts, ends, *tables()).tolist()


@pytest.fixture(scope="module")
def peer():
    return load_word_tokenizer("eng")


def test_special_cases_are_spacys(peer) -> None:
    rules = peer.tokenizer.tokenizer.rules
    assert special_cases() == {case: tuple(part[65] for part in parts) for case, parts in rules.items()}


def test_words_of_real_texts(peer) -> None:
    texts = real(60)
    assert len(texts) > 40
    for text in texts:
        assert split_words(text) == peer.word_tokenize(text)


def test_words_and_sentences_of_hard_texts(peer) -> None:
    for text in made(4000, seed=1):
        assert split_words(text) == peer.word_tokenize(text), ascii(text)
        assert count_sentences([text]) == [len(peer.span_tokenize(text))], ascii(text)


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_text(peer, text) -> None:
    assert split_words(text) == peer.word_tokenize(text)


def test_lines_are_counted_apart() -> None:
    lines = ["One. Two! (Three.) four", "", "No end", "  leading. blank", "Mr. Smith went."]
    assert count_sentences(lines) == [count_sentences([line])[0] for line in lines] == [4, 0, 1, 2, 1]
    assert count_sentences([]) == []


def test_it_differs_from_splitting_at_white_space() -> None:
    text = "Don't: it's 5km (or so)..."
    assert split_words(text) == ["Do", "n't", ":", "it", "'s", "5", "km", "(", "or", "so", ")", "..."]
    assert split_words(text) != text.split()


@pytest.mark.parametrize(
    "piece", ["(", ")", "a.", ":)", "@", "a@", "-", "a-", "...", "http://", "a.b/", "'s", "1km", "=a"]
)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    text = code_points(piece * 200_000)
    starts, ends = words(text, *tables())
    assert (starts[1:] >= ends[:-1]).all() and ends[-1] <= len(text)
    assert int((ends - starts).sum()) == len(text)  # nothing lost: there is no white space in it


def test_half_surrogate_pairs_pass() -> None:
    assert "".join(split_words("a \ud800b \udfff.")) == "a\ud800b\udfff."


def test_the_table_has_every_code_point() -> None:
    assert table().shape == (0x110000,)
    assert table().dtype == np.uint32
