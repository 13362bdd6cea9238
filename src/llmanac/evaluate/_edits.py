"""Candidate edits of a sentence by rule, each with its kind and a reason.

Rules only propose; the language model decides. So a rule may be generous: a candidate costs one more sentence to score.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from llmanac.evaluate import english as english
from llmanac.evaluate.words import WORD, Words, plain

Kind = Literal["agreement", "number", "verb form", "article", "preposition", "confusion", "repetition", "spelling"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Operation = Literal["replace", "insert", "delete"]
_INSERTED = ("to", "of", "in", "for", "with", "on")  # the prepositions that are most often forgotten


@dataclass(frozen=True)
class Edit:
    """`text[start:stop]` becomes `new` (an insertion has start == stop and brings its own space)."""

    start: int
    stop: int
    new: str
    kind: Kind
    why: str

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.stop :]

    @property
    def operation(self) -> Operation:
        if self.start == self.stop:
            return "insert"
        return "replace" if self.new.strip() else "delete"


@dataclass(frozen=True)
class _Word:
    start: int
    stop: int
    text: str
    plain: str
    first: bool  # of its sentence


def words_of(text: str) -> list[_Word]:
    """The words of a sentence with their positions."""
    return [_Word(m.start(), m.end(), m[0], plain(m[0]), not i) for i, m in enumerate(WORD.finditer(text))]


def candidates(text: str, known: Words, kinds: frozenset[str]) -> list[Edit]:
    """Every edit that the rules propose for one sentence, each once."""
    found: dict[tuple[int, int, str], Edit] = {}
    row = words_of(text)
    for before, word in zip([None, *row], row, strict=False):
        for edit in _edits_of(text, word, before, known):
            if edit.kind in kinds:
                found.setdefault((edit.start, edit.stop, edit.new), edit)
    return list(found.values())


def _edits_of(text: str, word: _Word, before: _Word | None, known: Words) -> Iterator[Edit]:
    if before is not None and before.plain == word.plain and text[before.stop : word.start].isspace():
        yield Edit(before.stop, word.stop, "", "repetition", f"{word.text!r} appears twice")
    yield from _swaps(word)
    yield from _articles(text, word, before)
    yield from _prepositions(text, word, before)
    if word.plain not in english.FUNCTION:
        yield from _forms(word, known)
        yield from _spellings(word, known)


def _replace(word: _Word, new: str, kind: Kind, why: str) -> Edit:
    return Edit(word.start, word.stop, like(word.text, new), kind, why)


def like(old: str, new: str) -> str:
    """The new word in the old one's case."""
    if new in ("i", "i'm"):
        return new.capitalize()
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() and old not in ("I", "I'm") else new


def _others(word: _Word, rows: Iterable[tuple[str, ...]], kind: Kind, why: str) -> Iterator[Edit]:
    """The other words of every row that holds the word."""
    for row in rows:
        if word.plain in row:
            yield from (_replace(word, other, kind, f"{why}: {other!r}") for other in row if other != word.plain)


def _swaps(word: _Word) -> Iterator[Edit]:
    yield from _others(word, english.AGREEMENT, "agreement", f"{word.text!r} has to agree in number and person")
    yield from _others(word, english.CONFUSED, "confusion", f"{word.text!r} is often confused with it")
    for forms in english.AUXILIARIES:
        yield from _others(word, [forms], "verb form", f"another form of the verb {forms[0]!r}")


def _articles(text: str, word: _Word, before: _Word | None) -> Iterator[Edit]:
    if word.plain in english.ARTICLES:
        yield from _others(word, [english.ARTICLES], "article", "another article")
        yield _delete(text, word, "article", "no article is needed")
    elif not word.first and word.plain not in english.FUNCTION and before and before.plain not in english.DETERMINERS:
        for new in ("the", english.article(word.text)):
            yield Edit(word.start, word.start, f"{new} ", "article", f"an article is missing: {new!r}")


def _prepositions(text: str, word: _Word, before: _Word | None) -> Iterator[Edit]:
    if word.plain in english.PREPOSITIONS:
        yield from _others(word, [english.PREPOSITIONS], "preposition", "another preposition")
        yield _delete(text, word, "preposition", "no preposition is needed")
    elif before is not None and before.plain not in english.FUNCTION:
        for new in _INSERTED:
            yield Edit(word.start, word.start, f"{new} ", "preposition", f"a preposition is missing: {new!r}")


def _delete(text: str, word: _Word, kind: Kind, why: str) -> Edit:
    """Without the word and one space next to it; a capital letter moves to the next word."""
    rest = text[word.stop :]
    space = re.match(r"\s+\w?", rest)
    if word.first and word.text[:1].isupper() and space:
        return Edit(word.start, word.stop + space.end(), space[0].strip().upper() or "", kind, why)
    if word.start and text[word.start - 1].isspace():
        return Edit(word.start - 1, word.stop, "", kind, why)
    return Edit(word.start, word.stop + (1 if space else 0), "", kind, why)


def _forms(word: _Word, known: Words) -> Iterator[Edit]:
    """Other forms of a verb, and the other number of a noun, where the word list knows them."""
    for base in english.possible_bases(word.plain):
        forms = english.verb_forms(base)
        # a verb is a word that is also seen in the forms of one
        if base not in english.IRREGULAR and sum(form in known for form in forms) < 3:
            continue
        for form in forms:
            if form != word.plain and form in known:
                yield _replace(word, form, "verb form", f"another form of the verb {base!r}: {form!r}")
    for single in english.possible_singulars(word.plain):
        if single in known:
            yield _replace(word, single, "number", f"the singular: {single!r}")
    plural = english.with_s(word.plain)
    if plural in known:
        yield _replace(word, plural, "number", f"the plural: {plural!r}")


def _spellings(word: _Word, known: Words) -> Iterator[Edit]:
    name = word.text[:1].isupper() and not word.first
    if word.plain in known or name or word.plain.removesuffix("'s") in known or any(c.isupper() for c in word.text[1:]):
        return
    for other in known.near(word.plain):
        yield _replace(word, other, "spelling", f"{word.text!r} is no known word; {other!r} is spelled like it")
