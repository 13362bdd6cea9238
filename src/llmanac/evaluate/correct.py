"""Correcting grammar and spelling with a language model: rules propose edits, and those that make the
sentence more probable are kept.

    gain(edit) = ln P(sentence with the edit) - ln P(sentence);   kept where gain > margin + the operation's own margin

The most gainful edit of a sentence is made, then its candidates are proposed and scored again, until none gains enough.
Probability falls with every word, so an insertion starts at a disadvantage and a deletion at an advantage: each
operation has its own margin in addition to the common one. (Scoring edits with a language model and no training:
Bryant and Briscoe 2018, doi:10.18653/v1/W18-0529.)

What a rule does not propose cannot be corrected, and a weak model corrects badly: measure it on text
of your own before you trust it (`docs/evidence/uses/`).

Candidate edits of a sentence by rule, each with its kind and a reason.

Rules only propose; the language model decides. So a rule may be generous: a candidate costs one more sentence to score.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.progress import progress
from llmanac.evaluate import english as english
from llmanac.evaluate.likelihood import BATCH_TOKENS, text_logprobs
from llmanac.evaluate.words import WORD, plain
from llmanac.evaluate.words import Words as Words
from llmanac.models.pairs import start_token

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


MARGIN = 5.0  # nats: the edit makes the sentence 150 times as probable; about the best of docs/evidence/uses
OPERATION_MARGINS = {"replace": 0.0, "insert": 0.0, "delete": 3.0}
KIND_MARGINS: dict[str, float] = {"spelling": -2.0, "repetition": -3.0}
MOST_EDITS = 6  # of one sentence
BREAK = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)\]])\s+|\n+")
LONGEST = 240  # characters that are scored as one sentence: the cost grows with their square
TOGETHER = 32  # sentences whose candidates are scored at once


@dataclass(frozen=True)
class Change:
    """One edit that was made: `text[start:stop]` of the original text, `old`, became `new`.

    Attributes:
        gain: by how many nats it raised the sentence's log-likelihood.
        why: the rule's reason, in words.
    """

    start: int
    stop: int
    old: str
    new: str
    kind: Kind
    gain: float
    why: str


@dataclass(frozen=True)
class Corrected:
    """A text, its correction, and the changes in order of position."""

    text: str
    corrected: str
    changes: tuple[Change, ...]

    def as_json(self) -> dict[str, Any]:
        """One line of `llmanac correct --json`."""
        return {"text": self.text, "corrected": self.corrected, "changes": [vars(change) for change in self.changes]}


class Corrector:
    """Corrects texts with any `LanguageModel`.

    Args:
        words: known words; words that are one token count as known too.
        margin: nats that an edit must gain, before its operation's own margin.
        kinds: which kinds of edits are considered; all by default.

    Raises:
        SpecError: an unknown kind.
        DataError: a tokenizer without a start token.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        words: Words,
        *,
        margin: float = MARGIN,
        kinds: Iterable[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        chosen = KINDS if kinds is None else tuple(kinds)
        for kind in chosen:
            if kind not in KINDS:
                raise SpecError(f"kinds: {kind!r} is not one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
        if not np.isfinite(margin):
            raise SpecError(f"margin: {margin} is not a finite number of nats")
        first = start_token(tokenizer)
        if first is None:
            raise DataError("correct: this tokenizer has no bos or eos token to begin a sentence with")
        self.model, self.tokenizer, self.first = model, tokenizer, first
        self.words = Words(words.counts + token_words(tokenizer).counts)
        self.margin, self.kinds, self.batch_tokens = margin, frozenset(chosen), batch_tokens

    def correct(self, texts: Sequence[str]) -> list[Corrected]:
        """Correct each text, sentence by sentence."""
        pieces = [(owner, start, stop) for owner, text in enumerate(texts) for start, stop in sentences(text)]
        made: list[list[Change]] = [[] for _ in texts]
        with progress("correct", total=len(pieces), unit="sentences") as bar:
            for at in range(0, len(pieces), TOGETHER):
                group = pieces[at : at + TOGETHER]
                found = self._sentences([texts[owner][start:stop] for owner, start, stop in group])
                for (owner, start, _), changes in zip(group, found, strict=True):
                    made[owner] += [replace(c, start=c.start + start, stop=c.stop + start) for c in changes]
                bar.advance(len(group))
        return [
            Corrected(text, applied(text, changes), tuple(changes)) for text, changes in zip(texts, made, strict=True)
        ]

    def _sentences(self, texts: list[str]) -> list[list[Change]]:
        """The changes of each sentence, by place."""
        now = list(texts)
        made: list[list[Change]] = [[] for _ in texts]
        active = list(range(len(texts)))
        for _ in range(MOST_EDITS):
            going = []
            for place, gains in zip(active, self._gains([now[i] for i in active]), strict=True):
                if not gains or gains[0][1] <= 0:
                    continue
                edit, beyond = gains[0]
                made[place] = _with(texts[place], made[place], now[place], edit, beyond + self._needed(edit))
                now[place] = edit.apply(now[place])
                going.append(place)
            active = going
        return made

    def _gains(self, texts: list[str]) -> list[list[tuple[Edit, float]]]:
        edits = [candidates(text, self.words, self.kinds) for text in texts]
        asked = [form for text, own in zip(texts, edits, strict=True) for form in (text, *(e.apply(text) for e in own))]
        scores = iter(self._scores(asked))
        out = []
        for own in edits:
            base = next(scores)
            gains = [(edit, next(scores) - base - self._needed(edit)) for edit in own]
            # a sentence of probability 0 has no gains
            out.append(sorted(((e, g) for e, g in gains if g == g), key=lambda pair: -pair[1]))
        return out

    def _needed(self, edit: Edit) -> float:
        return self.margin + OPERATION_MARGINS[edit.operation] + KIND_MARGINS.get(edit.kind, 0.0)

    def _scores(self, texts: list[str]) -> list[float]:
        ids = [self.tokenizer.encode(text) for text in texts]
        found = text_logprobs(self.model, ids, self.first, batch_tokens=self.batch_tokens, label=None)
        return [float(values.sum()) for values in found]


def token_words(tokenizer: Any) -> Words:
    """The tokens that are complete words of four letters or more: common words of the text the tokenizer comes from."""
    counts: Counter[str] = Counter()
    for id in range(tokenizer.vocab_size):
        try:
            text = tokenizer.token_bytes(id).decode("utf-8")
        except (ValueError, KeyError):  # not a token, or an incomplete character
            continue
        word = text.strip(" ▁")
        if text != word and len(word) >= 4 and WORD.fullmatch(word):
            counts[plain(word)] += 1
    return Words(counts)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of each sentence without the white space around it; a very long one is cut between words."""
    start = 0
    for stop in (*(match.start() for match in BREAK.finditer(text)), len(text)):
        while stop - start > LONGEST:
            cut = text.rfind(" ", start + 1, start + LONGEST)
            cut = start + LONGEST if cut <= start else cut
            yield from _trimmed(text, start, cut)
            start = cut
        yield from _trimmed(text, start, stop)
        start = stop


def _trimmed(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    piece = text[start:stop]
    if stripped := piece.strip():
        start += piece.index(stripped)
        yield start, start + len(stripped)


def applied(text: str, changes: Sequence[Change]) -> str:
    """The text with all changes made; they are in order and do not overlap."""
    out, done = [], 0
    for change in changes:
        out += [text[done : change.start], change.new]
        done = change.stop
    return "".join([*out, text[done:]])


def _with(original: str, changes: list[Change], now: str, edit: Edit, gain: float) -> list[Change]:
    """The changes of a sentence with one more edit, of the text as it is `now`; those that it touches become one."""
    grown, places = 0, []
    for change in changes:
        low = change.start + grown
        places.append((low, low + len(change.new)))
        grown += _growth(change)
    pairs = list(zip(changes, places, strict=True))
    touched = [(c, at) for c, at in pairs if at[0] <= edit.stop and at[1] >= edit.start]
    start = min([edit.start, *(low for _, (low, _) in touched)])
    stop = max([edit.stop, *(high for _, (_, high) in touched)])
    before = sum(_growth(c) for c, (_, high) in pairs if high < start)
    first, last = start - before, stop - before - sum(_growth(c) for c, _ in touched)
    old, new = original[first:last], now[start : edit.start] + edit.new + now[edit.stop : stop]
    why = "; ".join([*(c.why for c, _ in touched), edit.why])
    merged = Change(first, last, old, new, edit.kind, gain + sum(c.gain for c, _ in touched), why)
    others = [pair[0] for pair in pairs if pair not in touched]
    return sorted([*others, *([merged] if old != new else [])], key=lambda change: change.start)


def _growth(change: Change) -> int:
    return len(change.new) - (change.stop - change.start)
