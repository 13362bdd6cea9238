"""Entries by what they are for, and the lines of one entry by what they say.

Entries are ranked by BM25 over stems, where a word of the name counts four times, one of the summary three times
(weighted fields, as in BM25F); words that say much the same as one of the question count too, but less. Lines of an
entry are ranked by how much of the question they speak of, rare words weighing more.

Paper: Robertson et al. 2004, Simple BM25 extension to multiple weighted fields.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from llmanac.recipes.quickstart_passages import Passage
from llmanac.recipes.quickstart_words import content, holds, related, stems
from llmanac.retrieve.bm25 import BM25, Spec

NAME, SUMMARY = 3, 2  # how often a word of these fields counts beside the body's once
RELATED = 0.45  # what a word that says much the same counts
DEEP = 0.93  # of the score of an entry, for each part of its name after the second
TOPIC = 0.6  # of the score of a chapter of the language reference: it speaks of everything


class EntryRanking:
    """Ranks entries for a question that names none of them.

    Args:
        entries: the passages of each entry, its first one first.
        shortest: by entry, the parts of the shortest name it goes by.
    """

    def __init__(self, entries: Sequence[Sequence[Passage]], shortest: Sequence[int]) -> None:
        texts = []
        for passages in entries:
            first = passages[0]
            summary = first.lines[0] if first.lines else ""
            body = [stem for passage in passages for stem in stems(passage.text)]
            texts.append([*stems(first.name) * NAME, *stems(summary) * SUMMARY, *body])
        self._held = [frozenset(words) for words in texts]
        self.index = BM25(texts, Spec(k1=1.2, b=0.6))
        depth = np.maximum(0, np.array(shortest, np.int64) - 2)
        topic = np.array([passages[0].title.startswith("topic ") for passages in entries], bool)
        self.prior = DEEP**depth * np.where(topic, TOPIC, 1.0)

    def best(self, question: str, k: int) -> list[tuple[int, float]]:
        """`(place of the entry, how much of the question it speaks of)`, best first."""
        wanted = content(question)
        further = [other for word in wanted for other in related(word) if other not in wanted]
        scores = (self.index.scores(wanted) + RELATED * self.index.scores(further)) * self.prior
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        return [(place, self.coverage(wanted, self._held[place])) for place in order if scores[place] > 0]

    def weight(self, stem: str) -> float:
        """How much a word tells: its idf among the entries."""
        return self.index.weight(stem)

    def coverage(self, wanted: Sequence[str], there: frozenset[str]) -> float:
        """Between 0 and 1: how much of the wanted words is there, rare words weighing more."""
        whole = sum(map(self.weight, wanted))
        return sum(self.weight(word) * holds(there, word, RELATED) for word in wanted) / whole if whole else 0.0


def rank_lines(ranking: EntryRanking, wanted: Sequence[str], lines: Sequence[str]) -> list[tuple[float, int]]:
    """`(score, number)` of an entry's lines, best first: the weight of the wanted words that each holds.

    A word that most lines of the entry hold tells little about which of them answers.
    """
    held = [frozenset(stems(line)) for line in lines]
    count = Counter(word for words in held for word in words)
    out = []
    for number, words in enumerate(held):
        score = 0.0
        for word in wanted:
            match = holds(words, word, RELATED)
            if match:
                spread = count[word] if word in words else sum(count[w] for w in related(word) & words)
                score += match * ranking.weight(word) / (1 + math.log(max(1, spread)))
        out.append((score / (1 + 0.004 * len(lines[number])), number))
    return sorted(out, key=lambda item: (-item[0], item[1]))
