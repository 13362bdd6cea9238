"""Entries by what they are for.

    score = W sqrt(m / n) c / n + V cos(question, entry) + log prior

m is the sum over the question's n words of their BM25 in three fields (name, summary, all of the text), c how many of
them score; a synonym scores instead where that is more, at a lower weight. The cosine is of sentence vectors, where
there are some. The prior is that programs call an entry, and functions before methods: `os.listdir` before a method
of a mailbox. The weights are of a softmax over all entries, fitted to the 96 questions that name nothing of the parts
`work`, `measure`, `dev2`, `measure2` and `fresh` of `evidence/docs_assistant`.

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
from llmanac.retrieve.bm25 import BM25, Spec
from llmanac.retrieve.dense import Dense

NAME, SUMMARY, BODY = 0.9, 1.0, 0.8  # weights of the fields
RELATED = 0.6  # weight of a synonym
MATCH, MATCH_ALONE, LIKE = 3.2, 4.8, 14.3  # weights of the words, with vectors and without, and of the cosine
CALLED, MOST = 0.13, 64  # what each doubling of the calls of a name adds, up to so many calls
MEMBER = 2.2  # taken from what is known only as a member of a class
TOPIC = 3.4  # taken from a chapter of the language reference: it has words of every subject
MOST_TELLING = 6.0  # idf of a very rare word: it may be noise
# log-odds that entries answer a question: for the share of it that one covers, their cosine, each word that the
# documentation does not have, each word at all; and what is needed, with vectors and without
COVERS, COVERS_ALONE, ALIKE, UNHEARD, WORD, ENOUGH, ENOUGH_ALONE = 3.0, 6.0, 10.0, 1.25, 0.4, 6.5, 4.2
READ = 140  # characters of an entry's text that become its vector


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


class EntryRanking:
    """Ranks entries for a question that names none of them.

    Args:
        entries: the passages of each entry, its first one first.
        members: by entry, whether every name of it is one of a member of a class.
        calls: by entry, how often programs call it.
    """

    def __init__(self, entries: Sequence[Sequence[Passage]], members: Sequence[bool], calls: Sequence[float]) -> None:
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
        called = np.log2(1 + np.minimum(np.array(calls, np.float64), MOST))
        self.prior = CALLED * called - MEMBER * np.array(members, bool) - TOPIC * topic

    def best(self, question: str, k: int, dense: Dense | None = None) -> list[Served]:
        """The entries, by their place, that serve a question best: by words, and by vectors where there are some."""
        wanted = content(question)
        total, counted = np.zeros(len(self._held)), np.zeros(len(self._held))
        for word in wanted:
            score = self._scores(word)
            for other in related(word):
                score = np.maximum(score, RELATED * self._scores(other))
            total += score
            counted += score > 0
        words = max(1, len(wanted))
        scores = np.sqrt(total / words) * counted / words * (MATCH_ALONE if dense is None else MATCH)
        near = np.zeros(len(self._held))
        if dense is not None:
            for place, likeness in dense.top(question, len(dense)):
                near[place] = likeness
            scores += LIKE * near
        found = (scores + self.prior)[counted > 0] if dense is None else scores + self.prior
        places = np.flatnonzero(counted) if dense is None else np.arange(len(found))
        order = places[np.argsort(-found, kind="stable")[:k]].tolist()
        return [Served(place, self.coverage(wanted, self._held[place]), float(near[place])) for place in order]

    def serves(self, question: str, best: Sequence[Served], *, vectors: bool) -> bool:
        """Whether the best entries are near enough to a question to be shown as its answer."""
        wanted, known = content(question), self.body.vocabulary
        unheard = sum(not any(word in known for word in (one, *related(one))) for one in wanted)
        share = max((one.share for one in best), default=0.0)
        likeness = max((one.likeness for one in best), default=0.0)
        odds = (COVERS if vectors else COVERS_ALONE) * share + ALIKE * likeness - UNHEARD * unheard + WORD * len(wanted)
        return odds >= (ENOUGH if vectors else ENOUGH_ALONE)

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
