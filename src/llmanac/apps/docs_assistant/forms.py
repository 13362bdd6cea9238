"""How questions are worded (`forms.toml`). Forms for training and forms for evaluation are different sentences.

`(a|b)` in a pattern is a choice; `{n}` is the name asked about, `{p}` a parameter, `{s}` a wish ("copy a file").
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from llmanac.apps.docs_assistant.facts import Kind
from llmanac.apps.docs_assistant.tables import FORMS as TABLE
from llmanac.apps.docs_assistant.tables import words

FormSet = Literal["training", "held_out"]
_CHOICE = re.compile(r"\(([^()]*)\)")

_SIDES: tuple[FormSet, ...] = ("training", "held_out")
FORMS: Mapping[FormSet, Mapping[Kind, Sequence[str]]] = {side: TABLE[side]["kinds"] for side in _SIDES}
TRAINING, HELD_OUT = FORMS["training"], FORMS["held_out"]
OPENERS: Mapping[FormSet, Sequence[str]] = {side: TABLE[side]["openers"] for side in _SIDES}
CLOSERS: Mapping[FormSet, Sequence[str]] = {side: TABLE[side]["closers"] for side in _SIDES}
OFF_TOPIC: Mapping[FormSet, Sequence[str]] = {side: TABLE[side]["off_topic"] for side in _SIDES}
_SMALL = words("form_words")


def expand(pattern: str, rng: random.Random) -> str:
    """One sentence of a pattern, its choices drawn."""
    return _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), pattern)


def every(pattern: str) -> Iterator[str]:
    """All sentences of a pattern."""
    match = _CHOICE.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in match.group(1).split("|"):
        yield from every(pattern[: match.start()] + choice + pattern[match.end() :])


def plain(form: str) -> str:
    """A form without case and punctuation: two forms are the same sentence when these are equal."""
    return " ".join(re.findall(r"[a-z{}]+", form.lower()))


@functools.lru_cache(maxsize=50_000)
def near_held_out(form: str) -> bool:
    """Whether a form is a form for evaluation, give or take one word (another one, one more, one less)."""
    words = tuple(plain(form).split())
    whole, shorter, gapped = _near_held_out()
    return (
        words in whole
        or words in shorter
        or any(one in whole for one in _shortened(words))
        or any(one in gapped for one in _gapped(words))
    )


@functools.cache
def _near_held_out() -> tuple[frozenset[tuple[str, ...]], ...]:
    """Every form for evaluation as its words; these with one word left out; with one word blanked out."""
    patterns = [pattern for kind in HELD_OUT.values() for pattern in kind] + list(OFF_TOPIC["held_out"])
    whole = {tuple(plain(form).split()) for pattern in patterns for form in every(pattern)}
    return tuple(
        frozenset(found)
        for found in (whole, (s for w in whole for s in _shortened(w)), (g for w in whole for g in _gapped(w)))
    )


def _shortened(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[:i] + words[i + 1 :] for i in range(len(words)))


def _gapped(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return ((*words[:i], "", *words[i + 1 :]) for i in range(len(words)))


@functools.cache
def form_words() -> frozenset[str]:
    """The words that training questions are made of, in lower case: they say what is asked, not what about."""
    return frozenset(_kinds_of_words()) | _SMALL


@functools.cache
def asking_words() -> frozenset[str]:
    """Those of them that serve several kinds of questions: they say nothing that a passage could hold."""
    return frozenset(word for word, kinds in _kinds_of_words().items() if len(kinds) > 1) | _SMALL


def _kinds_of_words() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    extra = {"openers": OPENERS["training"], "closers": CLOSERS["training"]}
    for kind, patterns in [*TRAINING.items(), *extra.items()]:
        for word in re.findall(r"[a-z']+", re.sub(r"\{\w\}", " ", " ".join(patterns)).lower()):
            found.setdefault(word, set()).add(kind)
    return found
