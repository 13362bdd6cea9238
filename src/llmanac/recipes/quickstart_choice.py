"""Which line of the entry that is asked about answers: what the model points at, and what the question's words say.

The model has learned what is asked from a few hundred forms of question. Words that no form has ("clobber", "twice")
say nothing to it; a line that speaks of them, or says much the same, is looked for by its words. Where the most telling
of a question's words are in no line, the documentation does not say.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmanac.recipes.quickstart_ranking import EntryRanking
from llmanac.recipes.quickstart_words import related, stems

POINTED = 1.0  # what being pointed at counts beside the weight of the words that a line speaks of
READ = ("returns", "raises", "default", "parameter")  # understood so, a question is one that the model can read
RELATED = 0.6  # of a word's weight, where a line only says much the same
SPREAD = 0.5  # how much less a word tells that several lines hold, by the logarithm of how many do
LENGTH = 0.002  # of the score that a long line loses, by the character
RESTATED = 0.4  # of it for a title or a default, which name the parameters and say nothing of them
ENOUGH = 1.0  # the weight of words that a line has to speak of
SHARE, TELLING = 0.2, 3  # and the share of all that is asked, each word by this power of its weight
SIGNATURE = ("arguments", "default")  # asked, as the model understood it, of the title and its defaults
_CALLING = "argument parameter arg args param signature call invoke pass accept input default"
CALLING = frozenset(stem for stem in stems(_CALLING))
_SURE = {
    "returns": re.compile(r"(?i)(?:returns?|yields?)\b"),
    "raises": re.compile(r"(?i)raises?\b"),
}


@dataclass(frozen=True)
class Asked:
    """What is asked of an entry.

    Attributes:
        wanted: stems of the question's words, without the name and the words that every question has.
        words: all its stems.
        parameters: stems of the entry's parameters: which of them is asked about, the model sees.
        kind: what the model understood is asked.
        pointed: the line that it points at, or None where it says that none answers.
    """

    wanted: Sequence[str]
    words: frozenset[str]
    parameters: frozenset[str]
    kind: str
    pointed: str | None


def choose(
    ranking: EntryRanking, asked: Asked, common: frozenset[str], title: Sequence[str], lines: Sequence[str]
) -> str | None:
    """The line that answers; None where none does.

    Args:
        common: stems of the words that the forms of training questions are made of.
        title: the entry's title, and the defaults that it states as lines.
        lines: every line of its text.
    """
    pointed = asked.pointed
    if pointed == title[0] and lines and (asked.kind == "which" or not asked.words & CALLING):
        pointed = lines[0]  # the title is shown with every answer; how to call it is not what is asked
    if not set(asked.wanted) - common - asked.parameters:
        return pointed if pointed is not None else _plainly(asked.kind, lines)
    held = [frozenset(stems(line)) for line in (*title, *lines)]
    spread = Counter(word for words in held[len(title) :] for word in words)
    whole = sum(ranking.weight(word) ** TELLING for word in asked.wanted)
    best: tuple[float, str | None] = (0.0, None)
    for number, (line, words) in enumerate(zip((*title, *lines), held, strict=True)):
        score = share = 0.0
        for word, match in matches(asked.wanted, words):
            alike = spread[word] if match == 1 else sum(spread[other] for other in related(word) & words)
            share += match * ranking.weight(word) ** TELLING / whole
            score += match * ranking.weight(word) / (1 + SPREAD * math.log(max(1, alike)))
        score /= 1 + LENGTH * len(line)
        restated = number < len(title) and asked.kind not in SIGNATURE
        score *= RESTATED if restated else 1.0
        value = score + POINTED * (line == pointed and asked.kind in READ and not restated)
        if value > best[0]:
            best = (value, line if score >= ENOUGH and share >= SHARE else None)
    return best[1]


def _plainly(kind: str, lines: Sequence[str]) -> str | None:
    """The line that answers where its kind alone says which: the one that begins with "Returns"."""
    sure = _SURE.get(kind)
    return next((line for line in lines if sure.match(line)), None) if sure else None


def matches(wanted: Iterable[str], there: frozenset[str]) -> Iterable[tuple[str, float]]:
    """`(word, 1 or RELATED)` of the wanted words that are there, or have one there that says much the same."""
    for word in wanted:
        if word in there:
            yield word, 1.0
        elif related(word) & there:
            yield word, RELATED


def common_stems(words: Iterable[str]) -> frozenset[str]:
    """The stems of words of questions."""
    return frozenset(stem for word in words for stem in stems(word))
