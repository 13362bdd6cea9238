"""BM25: rank texts by the query words they hold, rare words weighing more and repeats less and less.

For a query q and a text d of |d| words, f = count of word t in d, N texts of which n hold t:

    score(q, d) = sum over t in q of  idf(t) * f * g / (f + k1 * (1 - b + b * |d| / mean |d|))

    variant "lucene":     idf = ln(1 + (N - n + 0.5) / (n + 0.5)),  g = 1
    variant "robertson":  idf = max(0, ln((N - n + 0.5) / (n + 0.5))),  g = 1
    variant "okapi":      idf = ln(N - n + 0.5) - ln(n + 0.5), negative ones replaced by epsilon * mean idf,  g = k1 + 1
    variant "plus":       idf = ln((N + 1) / n),  g = k1 + 1,  and idf * delta more
    variant "l":          idf = ln((N + 1) / (n + 0.5)),  f / (1 - b + b * |d| / mean |d|) + delta in place of f,
                          without |d| below, and g = k1 + 1

"plus" and "l" raise what a long text gets for a word. As in rank_bm25 and bm25s the lower bound (idf * delta, and
idf * g * delta / (k1 + delta)) goes to every text, so that texts without the word keep their distance of the formula.
rank_bm25 0.2.2 multiplies "l" by f once more, which no paper does; without repeats the two differ by the lower bound.

A word that is twice in the query counts twice. The inverted index holds the finished weight of every (word, text)
pair: `starts` (V+1,), `texts` (P,) int32 and `weights` (P,) float32, ordered by word and then by text, so that a query
is a sum over a few slices.

Papers: Robertson et al. 1995, Okapi at TREC-3; Lv & Zhai 2011, Lower-bounding term frequency normalization ("plus")
and When documents are very long, BM25 fails ("l"); Kamphuis et al. 2020, Which BM25 do you mean? (the variants).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmanac.core.ranges import FRACTION, NOT_NEGATIVE, within
from llmanac.retrieve import Hit, RetrieverSpec
from llmanac.retrieve._index import load_index, save_index
from llmanac.retrieve._vocabulary import Vocabulary
from llmanac.retrieve._words import WORDS, Analyzer

CARD = {
    "title": "BM25 over an inverted index",
    "paper": "Robertson et al. 1995, Okapi at TREC-3",
    "reference": "rank_bm25.BM25Okapi (okapi) and BM25Plus (plus), bm25s (lucene, robertson, plus, l)",
    "aliases": {
        "bm25-okapi": {"variant": "okapi"},
        "bm25-robertson": {"variant": "robertson"},
        "bm25-plus": {"variant": "plus", "delta": 1.0},
        "bm25-l": {"variant": "l"},
    },
    "test": "tests/references/test_bm25.py::test_okapi_scores_equal_rank_bm25",
}
FORMAT = "bm25"
ARRAYS = ("starts", "texts", "weights", "idf")
MANY = 64  # a word in more than one of so many texts has a bit for each text, made when it is first searched for


@dataclass(frozen=True, kw_only=True)
class Spec(RetrieverSpec):
    """Choices of BM25.

    Attributes:
        k1: how fast repeats of a word stop counting (0: they never count).
        b: how much long texts are held back (0: not at all, 1: in full).
        variant: the formula, see above.
        delta: the lower bound of "plus" (there usually 1) and "l".
        epsilon: the fraction of the mean idf that replaces a negative one, for okapi.
        analyzer: how text is split into words: "code" also yields the parts of a_name and aName, "plain" does not.
    """

    k1: float = 1.5
    b: float = 0.75
    variant: Literal["lucene", "robertson", "okapi", "plus", "l"] = "lucene"
    delta: float = 0.5
    epsilon: float = 0.25
    analyzer: Analyzer = "code"

    ranges = within(NOT_NEGATIVE, "k1 delta") | within(FRACTION, "b")

    def build(self, *, texts: Sequence[str] = ()) -> BM25:
        return BM25(texts, self)


class BM25:
    """An index over texts. `scores` returns every text's score, `top` the best ones.

    Args:
        texts: the texts, or lists of words where they are already split.
    """

    def __init__(self, texts: Iterable[str | Sequence[str]], spec: Spec | None = None) -> None:
        self.spec = spec or Spec()
        split = WORDS[self.spec.analyzer]
        self._own = threading.local()
        self._lock = threading.Lock()
        self._known_words: tuple[np.ndarray, ...] | None = None
        known = Vocabulary()
        ids, lengths = known.read(split(text) if isinstance(text, str) else text for text in texts)
        self.vocabulary = {word: i for i, word in enumerate(known.words())}
        self._invert(ids, lengths)

    @classmethod
    def from_ids(cls, ids: np.ndarray, lengths: np.ndarray, words: Sequence[str], spec: Spec | None = None) -> BM25:
        """From the word numbers of all texts in one array, how many each text has, and the words of the numbers."""
        index = cls([], spec)
        index.vocabulary = {word: i for i, word in enumerate(words)}
        index._invert(np.asarray(ids, np.int64), np.asarray(lengths, np.int64))
        return index

    @classmethod
    def from_arrays(cls, size: int, words: Sequence[str], arrays: dict[str, np.ndarray], spec: Spec) -> BM25:
        """From the arrays of a finished index, which may be memory-mapped."""
        index = cls([], spec)
        index.size, index.vocabulary = size, {word: i for i, word in enumerate(words)}
        for name in ARRAYS:
            setattr(index, name, arrays[name])
        return index

    def _invert(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Count (word, text) pairs, and store their weights."""
        from llmanac.retrieve._kernel import count_texts, fill_postings

        self.size, ids = len(lengths), np.ascontiguousarray(ids, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        found = count_texts(ids, ends, len(self.vocabulary))
        self.starts = np.concatenate([[0], np.cumsum(found)]).astype(np.int64)
        spec, mean = self.spec, lengths.mean() if self.size else 1.0
        relative = 1 - spec.b + spec.b * lengths / max(mean, 1e-12)
        gain = 1.0 if spec.variant in ("lucene", "robertson") else spec.k1 + 1
        shift, least = (spec.delta, self._least()) if spec.variant == "l" else (0.0, 0.0)
        self.idf = self._idf(found)
        self.texts, self.weights = fill_postings(
            ids, ends, self.starts, self.idf, relative, float(spec.k1), float(gain), shift, least
        )

    def _least(self) -> float:
        """What a word of the query gives to every text, in units of its idf."""
        spec = self.spec
        if spec.variant == "l":
            return (spec.k1 + 1) * spec.delta / max(spec.k1 + spec.delta, 1e-12)
        return spec.delta if spec.variant == "plus" else 0.0

    def _everywhere(self, known: Sequence[int] | np.ndarray) -> float:
        """What every text has for a query."""
        least = self._least()
        return least * float(self.idf[known].sum()) if least else 0.0

    def _idf(self, found: np.ndarray) -> np.ndarray:
        """(V,) the idf of each word, from how many texts hold it."""
        if self.spec.variant == "lucene":
            return np.log1p((self.size - found + 0.5) / (found + 0.5))
        if self.spec.variant in ("plus", "l"):
            return np.log(self.size + 1.0) - np.log(found + (0.5 if self.spec.variant == "l" else 0.0))
        idf = np.log(self.size - found + 0.5) - np.log(found + 0.5)
        if self.spec.variant == "robertson":
            return np.maximum(idf, 0.0)
        mean = idf.mean() if len(idf) else 0.0
        return np.where(idf < 0, self.spec.epsilon * mean, idf)

    def __len__(self) -> int:
        return self.size

    def _known(self, query: str | Sequence[str]) -> list[int]:
        """(M,) the numbers of the query's words that the index holds, repeats included."""
        words = WORDS[self.spec.analyzer](query) if isinstance(query, str) else query
        return [number for number in map(self.vocabulary.get, words) if number is not None]

    def scores(self, query: str | Sequence[str]) -> np.ndarray:
        """(N,) float64: the score of every text; the lower bound of the variant, 0 for most, where no word occurs."""
        from llmanac.retrieve._kernel import add_postings

        scores, known = np.zeros(self.size), np.array(self._known(query), np.int64)
        add_postings(self.starts, self.texts, self.weights, known, scores)
        return scores + self._everywhere(known)

    def top(self, query: str | Sequence[str], k: int = 5) -> list[Hit]:
        """The `k` best texts with a score above the variant's lower bound, best first; ties go to the first text.

        A word whose weight is 0 (in half of the texts, for "robertson" and "okapi") finds nothing.
        """
        places, scores = self.search([query], k)
        return [Hit(i, s) for i, s in zip(places[0].tolist(), scores[0].tolist(), strict=True) if i >= 0]

    def search(self, queries: Sequence[str | Sequence[str]], k: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """`top` for Q queries: positions (Q, k) int64 and scores (Q, k) float64; -1 and 0 where no more texts match."""
        from llmanac.retrieve._kernel import best_of_queries

        k = max(0, min(k, self.size))
        known = [self._known(query) for query in queries]
        bounds = np.zeros(len(known) + 1, np.int64)
        np.cumsum([len(words) for words in known], out=bounds[1:])
        words = np.array([word for one in known for word in one], np.int64)
        places, scores = np.full((len(known), k), -1), np.zeros((len(known), k))
        found = np.zeros(len(known), np.int64)
        if k:
            postings, prepared = (self.starts, self.texts, self.weights), self._prepared(words)
            best_of_queries(*postings, *prepared, words, bounds, *self._memory(), places, scores, found)
        if self._least():
            scores += np.array([self._everywhere(one) for one in known])[:, None] * (places >= 0)
        return places, scores

    def _prepared(self, words: np.ndarray) -> tuple[np.ndarray, ...]:
        """What `best_of_query` has of words besides their postings, found when a query first has the word."""
        from llmanac.retrieve._kernel import prepare_words

        with self._lock:
            if self._known_words is None:
                many = np.diff(self.starts) > self.size // MANY
                rows = np.where(many, np.cumsum(many) - 1, -1)
                shape = (int(many.sum()), self.size // 64 + 1)  # zeros take no memory before they are written
                most = np.full(len(rows), np.nan, np.float32)
                self._known_words = most, rows, np.zeros(shape, np.uint64), np.zeros(shape, np.uint32)
            prepare_words(self.starts, self.texts, self.weights, words, *self._known_words)
            return self._known_words

    def _memory(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) zeros and (N,) text numbers of this thread's own: fresh memory would cost more than a query."""
        held: tuple[np.ndarray, np.ndarray] | None = getattr(self._own, "memory", None)
        if held is None or len(held[0]) != self.size:
            held = self._own.memory = np.zeros(self.size), np.empty(self.size + 1, np.int32)
        return held

    def weight(self, word: str) -> float:
        """The idf of a word; that of a word in no text where it is unknown."""
        known = self.vocabulary.get(word)
        return float(self.idf[known]) if known is not None else float(np.log1p((self.size + 0.5) / 0.5))

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and `index.safetensors` (atomic)."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        save_index(folder, FORMAT, self.spec, arrays, {"size": self.size, "vocabulary": list(self.vocabulary)})

    @classmethod
    def load(cls, folder: str | Path) -> BM25:
        """Read an index back. Raises CheckpointError that names the file which is missing or damaged."""
        spec, arrays, data = load_index(folder, FORMAT, Spec)
        return cls.from_arrays(int(data["size"]), data["vocabulary"], arrays, spec)
