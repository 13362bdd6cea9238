"""Which facts a question means: BM25 and cosines, above a threshold that the facts themselves give.

A fact with its rarest word left out ("My dog is called") is a question that no other fact answers. The best of the
others is what an unrelated fact gets by chance. Both scores are measured in standard deviations from the mean of these,
and added; a fact is recalled where its sum is above all but `CHANCE` of them. No number is set by hand or shipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.evaluate._english import FUNCTION
from llmanac.metrics._porter import stem
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.bm25 import BM25

CHANCE = 0.05  # of questions whose fact is not there, that recall another: the error that is asked for
MOST = 256  # facts that are left out in turn


@dataclass(frozen=True)
class Fact:
    """id: as `llmanac memory` names it; stated: seconds since 1970; a text "KEY: VALUE" has a key, else it is ""."""

    id: int
    text: str
    stated: float

    @property
    def key(self) -> str:
        return key_of(self.text)


def key_of(text: str) -> str:
    """What stands before the first colon, without case; a later fact of the same key replaces the earlier one."""
    key, colon, value = text.partition(": ")
    return " ".join(plain_words(key)) if colon and value else ""


def content(text: str) -> list[str]:
    """Stems of the words by which facts are found."""
    return [stem(word) for word in plain_words(text) if word not in FUNCTION and len(word) > 1 or word.isdigit()]


class Recall:
    """An index of facts.

    Args:
        vectors: of the facts, (N, D) of length 1, where there is an encoder.
    """

    def __init__(self, facts: Sequence[Fact], vectors: np.ndarray | None = None) -> None:
        self.facts, self.vectors = facts, vectors
        words = [content(fact.text) for fact in facts]
        self.index = BM25(words)
        self.scale = [(0.0, 1.0)] * 2
        chosen = np.unique(np.linspace(0, max(0, len(facts) - 1), MOST).astype(int))
        asked = [content(facts[i].key) or self._without_rarest(words[i]) for i in chosen] if len(facts) > 1 else []
        cosines = None if vectors is None or not asked else vectors[chosen] @ vectors.T
        parts = [np.array([self._shares(one) for one in asked]), cosines]
        chance = []
        for at, part in enumerate(parts):
            if part is not None and len(part):
                part[np.arange(len(chosen)), chosen] = -np.inf
                best = part.max(1)
                self.scale[at] = (float(best.mean()), float(best.std()) or 1.0)
                chance.append((part - self.scale[at][0]) / self.scale[at][1])
        found = np.sort(np.sum(chance, 0).max(1)) if chance else np.zeros(1)
        place = math.ceil((1 - CHANCE) * (len(found) + 1))  # of a new question among them
        self.least = float(found[min(place, len(found)) - 1])

    def _without_rarest(self, words: Sequence[str]) -> list[str]:
        rarest = max(words, key=self.index.weight, default="")
        return [word for word in words if word != rarest]

    def _shares(self, words: Sequence[str]) -> np.ndarray:
        """(N,) BM25 of the words over what they would give together; 0 where there are none."""
        most = sum(map(self.index.weight, words)) / (1 + self.index.spec.k1)
        return self.index.scores(words) / most if most else np.zeros(len(self.facts))

    def scores(self, question: str, vector: np.ndarray | None = None) -> np.ndarray:
        """(N,) how far each fact is above chance for a question."""
        parts = [self._shares(content(question)), *([] if vector is None else [self.vectors @ vector])]
        total = sum((part - mean) / width for part, (mean, width) in zip(parts, self.scale, strict=False))
        return np.asarray(total) - self.least

    def top(self, question: str, k: int, least: float = 0.0, vector: np.ndarray | None = None) -> list[Fact]:
        """The k best facts above `least`, of equal ones the newest first."""
        found = self.scores(question, vector).round(6)
        order = sorted(range(len(found)), key=lambda i: (-found[i], -i))
        return [self.facts[i] for i in order[:k] if found[i] > least]
