"""Entries by what they are for.

A word of a question scores for an entry by BM25 in each of three fields: the name, the summary and all of the text. A
synonym scores instead where that is more, at a lower weight. The sum is multiplied by a power of the fraction of the
words that score, and by a factor for how often programs call the name: `os.listdir` before a method of a mailbox.

Paper: Robertson et al. 2004, Simple BM25 extension to multiple weighted fields (why fields are weighed).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.prompt import Asked
from llmanac.apps.docs_assistant.words import content, holds, related, stems
from llmanac.retrieve import Hit
from llmanac.retrieve.bm25 import BM25, Spec
from llmanac.retrieve.dense import Dense
from llmanac.retrieve.hybrid import fuse_scores

NAME, SUMMARY, BODY = 0.9, 1.0, 0.8  # weights of the fields
RELATED = 0.6  # weight of a synonym
SHARE = 0.5  # the power of the fraction of words that score
CALLED, MOST = 0.12, 64  # what each doubling of the calls of a name adds, up to so many calls
DEEP = 0.93  # for each part of the shortest name after the second
MOST_TELLING = 6.0  # idf of a very rare word: it may be noise
TOPIC = 0.6  # a chapter of the language reference has words of every subject
SERVES = 0.35  # of a question that names nothing, which an entry must cover to be shown as its answer
SERVES_ALONE, ALIKE = 0.48, 0.5  # the same where entries have vectors; or the cosine of the two
READ = 140  # characters of an entry's text that become its vector
DEPTH = 100  # places of each ranking that are joined


@dataclass(frozen=True)
class Found:
    """The result of retrieval.

    Attributes:
        asked: the question, with the name in it looked up.
        passages: numbers of the passages, best first.
        coverage: between 0 and 1, how much of the question the best passage covers; 1 where a name was found.
    """

    asked: Asked
    passages: tuple[int, ...]
    coverage: float

    @property
    def entry(self) -> int:
        """The entry that the question names, or -1."""
        return self.asked.entry


class Served(NamedTuple):
    """An entry that a question may be after: how much of the question it covers, and the cosine of their vectors."""

    entry: int
    share: float
    likeness: float = 0.0


def summary(first: Passage) -> str:
    """What an encoder reads of an entry: its name in words, and how its text begins."""
    return f"{re.sub(r'[._]', ' ', first.name)}: {' '.join(first.lines)[:READ]}"


def serves(best: Sequence[Served], *, vectors: bool) -> bool:
    """Whether one of the best entries is near enough to a question to be shown as its answer."""
    share = max((one.share for one in best), default=0.0)
    if not vectors:
        return share >= SERVES
    return share >= SERVES_ALONE or any(one.likeness >= ALIKE for one in best)


class EntryRanking:
    """Ranks entries for a question that names none of them.

    Args:
        entries: the passages of each entry, its first one first.
        shortest: by entry, the number of parts of its shortest name.
        calls: by entry, how often programs call it.
    """

    def __init__(self, entries: Sequence[Sequence[Passage]], shortest: Sequence[int], calls: Sequence[float]) -> None:
        first = [passages[0] for passages in entries]
        body = [[stem for passage in passages for stem in stems(passage.text)] for passages in entries]
        self._held = [frozenset(words) for words in body]
        self.body = BM25(body, Spec(k1=1.2, b=0.7))
        self.fields = (
            (NAME, BM25([stems(p.name) for p in first], Spec(k1=0.5, b=0.3))),
            (SUMMARY, BM25([stems(p.lines[0] if p.lines else "") for p in first], Spec(k1=0.8, b=0.4))),
            (BODY, self.body),
        )
        topic = np.array([p.title.startswith("topic ") for p in first], bool)
        known = 1 + CALLED * np.log2(1 + np.minimum(np.array(calls, np.float64), MOST))
        self.prior = DEEP ** np.maximum(0, np.array(shortest, np.int64) - 2) * np.where(topic, TOPIC, 1.0) * known

    def top(self, question: str, k: int) -> list[Hit]:
        """The places of the entries that serve a question best, with their scores, best first."""
        wanted = content(question)
        total, counted = np.zeros(len(self._held)), np.zeros(len(self._held))
        for word in wanted:
            score = self._scores(word)
            for other in related(word):
                score = np.maximum(score, RELATED * self._scores(other))
            total += score
            counted += score > 0
        scores = total * (counted / max(1, len(wanted))) ** SHARE * self.prior
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        return [Hit(place, float(scores[place])) for place in order if scores[place] > 0]

    def best(self, question: str, k: int, dense: Dense | None = None) -> list[Served]:
        """The entries, by their place, that serve a question best: by words, and by vectors where there are some.

        Both rankings are joined as `hybrid` joins them.
        """
        hits = self.top(question, DEPTH if dense else k)
        near: dict[int, float] = {}
        if dense is not None:
            alike = dense.top(question, DEPTH)
            near = {hit.position: hit.score for hit in alike}
            hits = fuse_scores([hits, alike])
        wanted = content(question)
        return [Served(place, self.coverage(wanted, self._held[place]), near.get(place, 0.0)) for place, _ in hits[:k]]

    def covered(self, question: str, place: int) -> float:
        """How much of a question an entry covers."""
        return self.coverage(content(question), self._held[place])

    def _scores(self, word: str) -> np.ndarray:
        """(entries,) what one word counts for each."""
        total = np.zeros(len(self._held))
        for weight, field in self.fields:
            if word in field.vocabulary:
                total += weight * field.scores([word])
        return total

    def weight(self, stem: str) -> float:
        """The idf of a word among the entries, at most `MOST_TELLING`."""
        return min(MOST_TELLING, self.body.weight(stem))

    def coverage(self, wanted: Sequence[str], there: frozenset[str]) -> float:
        """Between 0 and 1: how much of the wanted words is there, rare words weighing more."""
        whole = sum(map(self.weight, wanted))
        return sum(self.weight(word) * holds(there, word, RELATED) for word in wanted) / whole if whole else 0.0
