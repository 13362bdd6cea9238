"""Exceptions of English tokenization: contractions, abbreviations, emoticons, times of day, units.

A filter must count the words that its reference counts, which are spaCy's. These are spaCy's exceptions, built from the
word lists in `rules.toml`; `tests/references/test_english_words.py` compares them with spaCy's own.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

_LISTS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("rules.toml").read_text("utf-8"))
UNITS = _LISTS["units"]


def _contractions() -> Iterator[tuple[str, ...]]:
    """The parts of every contraction in lower case, with its apostrophes."""
    asking = _LISTS["question_words"]
    yield from (("i", "'m"), ("i", "'m", "a"))
    for word in _LISTS["pronouns"] + asking:
        for end in ("'ll", "'d"):
            yield word, end
            yield word, end, "'ve"
    for word in ["i", "you", "we", "they", *asking]:
        if word not in ("that", "this"):
            yield word, "'ve"
    for word in ["you", "we", "they", *asking]:
        if word not in ("that", "this"):
            yield word, "'re"
    for word in ["he", "she", "it", *asking]:
        if word not in ("these", "those"):
            yield word, "'s"
    for word in _LISTS["before_not"]:
        yield word, "n't"
        yield word, "n't", "'ve"
    for word in _LISTS["before_not_only"]:
        yield word, "n't"
    for word in _LISTS["before_have"]:
        yield word, "'ve"


def _without(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.replace("'", "") for part in parts)


def _irregular() -> Iterator[tuple[str, ...]]:
    """Contractions that follow no pattern, each as it is written."""
    for word in ("not", "Not"):
        yield word, "'ve"
        yield word, "ve"
    for first in "cC":
        yield f"{first}an", "not"
        yield f"{first}'m", "on"
    for first in "gG":
        yield f"{first}on", "na"
        yield f"{first}ot", "ta"
    for first in "lL":
        yield f"{first}et", "'s"
    for first in "hH":
        yield f"{first}ow", "'d", "'y"
    yield "y'", "all"
    yield "y", "all"
    for number in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            yield str(number), half
    for unit in "cfkCFK":
        yield "°", unit, "."


def special_cases() -> dict[str, tuple[str, ...]]:
    """`{"can't": ("ca", "n't"), ":-)": (":-)",), ...}`: strings taken whole, and the words in them."""
    found: list[tuple[str, ...]] = []
    for parts in _contractions():
        for written in (parts, _without(parts)):
            found += [written, (written[0].title(), *written[1:])]
    found = [parts for parts in found if "".join(parts).lower() not in _LISTS["plain_words"]]
    found += list(_irregular())
    found += [
        (word,)
        for word in [*_LISTS["abbreviations"], *_LISTS["emoticons"], *_LISTS["alone"], "\t", "\n", " ", "\u00a0"]
    ]
    found += [(f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyzäöü"]
    for word in _LISTS["dropped_g"]:
        found += [(form,) for first in (word, word.title()) for form in (first, f"{first}'")]
    for word in _LISTS["because"]:
        found += [(f"'{word}",), (f"'{word.title()}",)]
    found += [(f"'{word}",) for word in ("bout", "em", "nuff")]
    found += [(word,) for word in ("ma'am", "Ma'am", "o'clock", "O'clock")]
    found += [tuple(part.replace("'", "\u2019") for part in parts) for parts in found if any("'" in p for p in parts)]
    return {"".join(parts): parts for parts in found}
