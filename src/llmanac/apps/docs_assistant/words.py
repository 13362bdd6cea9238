"""Words of questions and of documentation matched: stems, and groups of near synonyms (`words.toml`).

People ask whether a call "clobbers" a file where the documentation says "overwritten". The groups are general English
of programming; no name of the documentation is in them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterable

from llmanac.apps.docs_assistant.forms import form_words
from llmanac.apps.docs_assistant.tables import GROUPS, words
from llmanac.retrieve._words import code_words

QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^'\s]*'(?!\w)")  # an example's text, not what is asked
_PYTHON = re.compile(r"(?i)\bpython ?[\d.]*\d")  # `in Python 3.11`: everything here is
_NEGATIVE = re.compile(r"(?<![\w.)\]-])-\d[\d.]*\b")  # `comb(-1, 2)`
_NUMBER = re.compile(r"(?<![\w.])\d[\d.,]*(?!\w)")  # an example's
_STOP = words("stop")
STOP = frozenset([*_STOP, *code_words(" ".join(_STOP))])  # words are looked up without their -s


def stem(word: str) -> str:
    """A word without its ending, roughly: `raises`, `raised` and `raising` give `rais`."""
    word = word.lower()
    if len(word) <= 3:
        return word
    for ending, put in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("ly", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) + len(put) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + put
            break
    if len(word) >= 7 and word.endswith(("er", "or")):  # `counter` counts
        word = word[:-2]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


@functools.cache
def _groups() -> dict[str, frozenset[str]]:
    """By stem: the stems of its near synonyms."""
    out: dict[str, set[str]] = {}
    for line in GROUPS:
        stems = {stem(word) for word in line.split()}
        for one in stems:
            out.setdefault(one, set()).update(stems - {one})
    return {one: frozenset(others) for one, others in out.items()}


def related(one: str) -> frozenset[str]:
    """The near synonyms of a stem, without itself."""
    return _groups().get(one, frozenset())


@functools.lru_cache(maxsize=200_000)
def stems(text: str) -> tuple[str, ...]:
    """Every word of a text, names with their parts, as stems."""
    return tuple(stem(word) for word in code_words(text))


def content(text: str, known: Container[str] | None = None) -> list[str]:
    """The stems of a question without the stop words, each once.

    Args:
        known: stems of the documentation; a word that is not there, and has two letters swapped in a stop word,
            is taken for that (`hte`).
    """
    text = re.sub(r"(?<=\w)['’](?=\w)", "", _PYTHON.sub(" ", text))
    text = _NUMBER.sub(" ", _NEGATIVE.sub(" negative ", QUOTED.sub(" ", text)))
    words = (word for word in code_words(text) if word not in STOP)
    found = dict.fromkeys((stem(word), word) for word in words)
    return list(dict.fromkeys(s for s, w in found if known is None or s in known or related(s) or not _slip(w)))


@functools.lru_cache(maxsize=10_000)
def _slip(word: str) -> bool:
    """Whether a word is a stop word with two neighbouring letters swapped."""
    swapped = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1))
    small = STOP | form_words()
    return any(other in small for other in swapped)


def holds(there: Iterable[str], wanted: str, weight: float = 0.6) -> float:
    """1 where a stem is there, `weight` where a near synonym is, else 0."""
    there = there if isinstance(there, (set, frozenset)) else set(there)
    return 1.0 if wanted in there else weight if related(wanted) & there else 0.0
