"""Which facts a question means, by words (BM25) or by vectors, above a threshold that the facts themselves give.

What the other facts get for a question of one fact is chance: with an encoder for its text, else for its first words,
as many as the question has, since what a fact is of comes before its value, and short questions fit by chance more
often. From a fact's score the mean of the `HUB` best of these is taken, so that a fact which is near to everything is
no nearer (as CSLS, Conneau et al. 2018, arXiv:1710.04087); of what is left, the best of each is kept, and a fact is
recalled where it exceeds all but `CHANCE` of them (a conformal threshold). Where there is an encoder its cosines decide
alone: with the words' scores added, more was recalled that means something else.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.evaluate.english import FUNCTION
from llmanac.metrics import stem
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.bm25 import BM25

CHANCE = 0.05  # of questions whose fact is not there, that recall another: the error that is asked for
HUB = 5  # as few as there are near neighbours
MOST = 256  # facts that are asked for in turn
UNSAID = frozenset(["my", "our", "the", "that", "about"])  # need not be said of a fact to name it


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        id: as `llmanac memory` names it. stated: seconds since 1970.
        text: "KEY: VALUE" has a key; of other texts it is "".
        asked: 1 where the user asked to remember it, so that a model neither changes nor deletes it.
    """

    id: int
    text: str
    stated: float
    asked: int = 1

    @property
    def key(self) -> str:
        return key_of(self.text)


def key_of(text: str) -> str:
    """What stands before the first colon, without case; a later fact of the same key replaces the earlier one."""
    key, colon, value = text.partition(": ")
    return " ".join(key_words(key)) if colon and value else ""


def key_words(text: str) -> list[str]:
    """The words of a key, or of what asks for one: in one case and form, without what is said of whose it is."""
    words = [word.strip("?!.,;:\"'()") for word in unicodedata.normalize("NFKC", text).casefold().split()]
    return [word for word in words if word and word not in UNSAID] or words


def content(text: str) -> list[str]:
    """Stems of the words by which facts are found."""
    return [stem(word) for word in plain_words(text) if (word not in FUNCTION and len(word) > 1) or word.isdigit()]


class Recall:
    """An index of facts.

    Args:
        vectors: of the facts, (N, D) of length 1, where there is an encoder; of a single fact they tell nothing.
    """

    def __init__(self, facts: Sequence[Fact], vectors: np.ndarray | None = None) -> None:
        self.facts, self.vectors = facts, vectors if len(facts) > 1 else None
        words = [content(fact.text) for fact in facts]
        self.index = BM25(words)
        asked = (dict.fromkeys(content(fact.key) or own) for fact, own in zip(facts, words, strict=True))
        self._asked = [list(own) for own in asked]
        self._known: dict[int, tuple[np.ndarray, float]] = {}

    def _chance(self, count: int) -> tuple[np.ndarray, float]:
        """(N,) what each fact gets for others' questions of so many words, and the threshold of what is more."""
        size = len(self.facts)
        if size < 2:
            return np.zeros(size), 0.0
        if count not in self._known:
            chosen = np.unique(np.linspace(0, size - 1, MOST).astype(int))
            vectors = self.vectors
            near = np.stack(
                [self._scores(self._asked[i][:count], None if vectors is None else vectors[i]) for i in chosen]
            )
            near[np.arange(len(chosen)), chosen] = -np.inf
            hubs = np.ma.masked_invalid(np.sort(near, 0)[::-1][:HUB]).mean(0).filled(0.0)
            found = np.sort((near - hubs).max(1))
            place = math.ceil((1 - CHANCE) * (len(found) + 1))  # of a new question among them
            self._known[count] = hubs, float(found[min(place, len(found)) - 1])
        return self._known[count]

    def _scores(self, words: Sequence[str], vector: np.ndarray | None) -> np.ndarray:
        """(N,) cosines, or BM25 of the words over what they would give together."""
        if self.vectors is not None and vector is not None:
            return np.asarray(self.vectors @ vector, np.float64)
        most = sum(map(self.index.weight, words)) / (1 + self.index.spec.k1)
        return self.index.scores(words) / most if most else np.zeros(len(self.facts))

    def top(self, question: str, k: int, least: float = 0.0, vector: np.ndarray | None = None) -> list[Fact]:
        """The k best facts that are more than `least` above chance, of equal ones the newest first.

        A fact whose key the question names is first, unless a longer key there holds its key.
        """
        words = list(dict.fromkeys(content(question)))
        hubs, threshold = self._chance(0 if self.vectors is not None else len(words))
        found = (self._scores(words, vector) - hubs - threshold).round(6)
        said = f" {' '.join(key_words(question))} "
        named = sorted((f.key for f in self.facts if f.key and f" {f.key} " in said), key=len, reverse=True)
        for i, fact in enumerate(self.facts):
            if fact.key in named:
                found[i] = (
                    math.inf if not any(f" {fact.key} " in f" {key} " for key in named if key != fact.key) else least
                )
        order = sorted(range(len(found)), key=lambda i: (-found[i], -i))
        return [self.facts[i] for i in order[:k] if found[i] > least]
