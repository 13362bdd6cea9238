"""Which lines of an entry answer a question, or that none does.

A line has one score: the idf of the question's words in it (compared by stem; a synonym counts for less), and whether
the model points at it. The model was trained on a few hundred forms of question, so its choice is weighed by the
fraction of the question that consists of words it was trained on; where all of them are, the model decides. Another
score decides whether anything is quoted: the fraction of the question that the entry covers, and the length of the
entry.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmanac.apps.docs_assistant.ranking import MOST_TELLING, RELATED, EntryRanking
from llmanac.apps.docs_assistant.words import content, holds, related, stems

SPREAD = 0.5  # how much less a word counts that several lines hold, by the logarithm of their number
LENGTH, USUAL = 0.3, 60  # what a line longer than usual gains, by the logarithm; characters
SUMMARY = 0.3  # taken from the summary, which is shown in any case
ENOUGH, SAYS_MORE = 0.3, 0.2  # of a question that an entry must cover; what each doubling of the entry's lines adds
DOUBTED = 0.6  # the same where the model knows every word of the question and says that no line answers
ALSO = 0.5  # of the best score, from which a further line is quoted
MOST_LINES, MOST_CHARACTERS = 3, 400  # of a quotation
ASPECT = re.compile(  # what questions ask about any entry
    r"(?i)\b(?:returns?|raises?|exceptions?|errors?|defaults?|arguments?|args?|parameters?|params?|signature|types?|"
    r"version|deprecated|thread.?safe|what about|how about|same for|why)\b"
)
_OPINION = re.compile(
    r"(?i)\b(?:better|best|worse|worst|fast(?:er|est)|quick(?:er|est)|slow(?:er|est)|prefer\w*|recommend\w*|popular|"
    r"opinion|worth|you think|would you|should (?:i|we) (?:go|use|pick|choose|prefer))\b"
)
_VITAL = frozenset(
    stems("exception raise throw version release complexity windows linux atomic")
)  # in a question, these must be in the entry too


@dataclass(frozen=True)
class Asked:
    """A question about an entry.

    Attributes:
        question: as the user wrote it.
        wanted: stems of its words, without the name and the words that every question has.
        known: stems that the model can read: the words of training questions, and the entry's parameters.
        kind: the kind of fact that the model understood.
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
    """Whether a question asks for a judgement, in words that are not in `there`."""
    return any(not set(stems(match.group())) <= there for match in _OPINION.finditer(question))


def tells(question: str) -> bool:
    """Whether a question asks for more than every entry may say (`which errors does it raise`)."""
    return bool(content(ASPECT.sub(" ", question)))


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
    """Whether an entry says anything about the question."""
    if opinion(asked.question, there) or any(not holds(there, word) for word in asked.wanted if word in _VITAL):
        return False
    if not asked.wanted and not ASPECT.search(asked.question):
        return True  # "explain it": the summary does
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
    """How well a line's words match the question."""
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
