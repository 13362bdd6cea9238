"""Which lines of the entry that is asked about answer, or that none does.

One score for a line: how much its words tell of what is asked (by idf, by stem, a word that says much the same counting
for less), and whether the model points at it. The model has learned what is asked from a few hundred forms of question,
so its word counts by the share of the question that is made of words it was trained on; where all of it is, the model
decides. Whether anything is quoted at all goes by one score too: the share of the question that the entry speaks of,
and how much the entry says.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmanac.apps.docs_assistant.ranking import MOST_TELLING, RELATED, EntryRanking
from llmanac.apps.docs_assistant.words import holds, related, stems

SPREAD = 0.5  # how much less a word tells that several lines hold, by the logarithm of how many do
LENGTH, USUAL = 0.3, 60  # what a line gains that is longer than usual, by the logarithm; characters
SUMMARY = 0.3  # what the summary loses: it is shown in any case
ENOUGH, SAYS_MORE = 0.3, 0.2  # of a question that is spoken of; what each doubling of an entry's lines adds to it
DOUBTED = 0.6  # the same where the model, trained on all of the question's words, says that no line answers
ALSO = 0.5  # of the best score, from which a further line is quoted
MOST_LINES, MOST_CHARACTERS = 3, 400  # of a quotation
_OPINION = re.compile(
    r"(?i)\b(?:better|best|worse|worst|fast(?:er|est)|quick(?:er|est)|slow(?:er|est)|prefer\w*|recommend\w*|popular|"
    r"opinion|worth|you think|would you|should (?:i|we) (?:go|use|pick|choose|prefer))\b"
)
_VITAL = frozenset(stems("exception raise throw version release"))  # asked for, these have to be spoken of


@dataclass(frozen=True)
class Asked:
    """What is asked of an entry.

    Attributes:
        question: as it was asked.
        wanted: stems of its words, without the name and the words that every question has.
        known: stems that the model can read: the words of training questions, and the entry's parameters.
        kind: what the model understood is asked.
        pointed: the line that it points at, or None.
        denied: whether it says that no line answers.
    """

    question: str
    wanted: Sequence[str]
    known: frozenset[str]
    kind: str = ""
    pointed: str | None = None
    denied: bool = False


def opinion(question: str, there: frozenset[str] = frozenset()) -> bool:
    """Whether a question wants a judgement, and in words that are not `there`."""
    return any(not set(stems(match.group())) <= there for match in _OPINION.finditer(question))


def choose(ranking: EntryRanking, asked: Asked, title: Sequence[str], lines: Sequence[str]) -> tuple[str, ...]:
    """The lines to quote, the one that answers first; none where the documentation does not say.

    Args:
        title: the entry's title, and the defaults that it states as lines: quoted only where the model points there.
        lines: every line of its text.
    """
    if not lines:
        return tuple(title[:1]) if asked.pointed in title else ()
    held = [frozenset(stems(line)) for line in lines]
    there = frozenset().union(*held)
    new = [word for word in asked.wanted if word not in asked.known]
    if not _says(ranking, asked, there, len(lines), new):
        return ()
    spread = Counter(word for words in held for word in words)
    scores = {
        line: _score(ranking, asked.wanted, words, spread, len(line)) for line, words in zip(lines, held, strict=True)
    }
    scores[lines[0]] -= SUMMARY
    first = _first(ranking, asked, title, scores, new)
    order = sorted(scores, key=lambda line: -scores[line])
    quoted, size = [first], len(first)
    for line in order:
        enough = scores[line] > 0 and scores[line] >= ALSO * scores[order[0]]
        if line != first and enough and len(quoted) < MOST_LINES and size + len(line) <= MOST_CHARACTERS:
            quoted.append(line)
            size += len(line)
    return tuple(quoted)


def _says(ranking: EntryRanking, asked: Asked, there: frozenset[str], lines: int, new: Sequence[str]) -> bool:
    """Whether an entry says anything of what is asked."""
    if opinion(asked.question, there) or any(not holds(there, word) for word in asked.wanted if word in _VITAL):
        return False
    spoken = ranking.coverage(asked.wanted, there)
    if not new:
        return not asked.denied or spoken >= DOUBTED
    read = spoken > 0 or asked.pointed is not None
    return read and spoken + SAYS_MORE * math.log2(1 + lines) >= ENOUGH


def _first(
    ranking: EntryRanking, asked: Asked, title: Sequence[str], scores: dict[str, float], new: Sequence[str]
) -> str:
    """The line that answers."""
    best = max(scores, key=lambda line: scores[line])
    pointed = asked.pointed
    if pointed == title[0] and asked.kind in ("which", "what"):
        pointed = None  # the title is shown with every answer
    if pointed is None:
        return best if asked.wanted else next(iter(scores))
    if not new:
        return pointed
    if pointed not in scores:
        return best
    whole = sum(map(ranking.weight, asked.wanted))
    trained = 1 - sum(map(ranking.weight, new)) / whole
    return pointed if scores[pointed] + trained >= scores[best] else best


def _score(
    ranking: EntryRanking, wanted: Iterable[str], there: frozenset[str], spread: Counter[str], length: int
) -> float:
    """How much a line's words tell of what is asked."""
    score = 0.0
    for word in wanted:
        match = holds(there, word, RELATED)
        if match:
            alike = spread[word] if match == 1 else sum(spread[other] for other in related(word) & there)
            score += match * ranking.weight(word) / MOST_TELLING / (1 + SPREAD * math.log(max(1, alike)))
    return score * (1 + LENGTH * math.log(length / USUAL + 0.3))


def common_stems(words: Iterable[str]) -> frozenset[str]:
    """The stems of words of questions."""
    return frozenset(stem for word in words for stem in stems(word))
