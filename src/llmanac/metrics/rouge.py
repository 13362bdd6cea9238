"""ROUGE: how much of a reference a text covers, in n-grams or in the longest common subsequence.

    ROUGE-n   hits = sum over n-grams of min(count in text, count in reference)
    ROUGE-L   hits = length of the longest common subsequence (LCS) of both token sequences
    ROUGE-Lsum hits = tokens of reference lines that are in an LCS with some line of the text, counted once (Lin 2004)

    precision = hits / n-grams of the text    recall = hits / n-grams of the reference    F = 2 P R / (P + R)

Tokens are runs of a-z and 0-9 of the lowered text, words of more than three letters stemmed where `stemmer` says so.
Lines end at newlines. Of several references the one with the best F counts, for each type by itself. Shapes: S texts,
each with one reference or several -> (S, 3) of precision, recall and F for each type.

It counts words and not meaning: a paraphrase scores low, and a negation that adds one word scores high.
Lin 2004, ROUGE: a package for automatic evaluation of summaries.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.kernels.metrics.counts import common_lengths, matched_ngrams, union_hits
from llmanac.kernels.text import pack
from llmanac.metrics import MetricSpec
from llmanac.metrics._ids import Ids, spans, utf8, words
from llmanac.metrics._porter import stem
from llmanac.metrics.statistics.corpus import Measured, mean_of, reference_lists

CARD = {
    "title": "ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum",
    "paper": "Lin 2004, ROUGE: a package for automatic evaluation of summaries",
    "reference": "rouge-score's RougeScorer",
    "test": "tests/references/test_rouge.py::test_scores_equal_rouge_score",
}

Stemmer = Literal["none", "porter"]
TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MOST_CELLS, MOST_SUM_CELLS, MOST_TABLE = 1 << 38, 1 << 34, 1 << 26  # of ROUGE-L, of Lsum, of one table: seconds, 256 MB
_KEEP = np.zeros(256, np.bool_)
_KEEP[ord("0") : ord("9") + 1] = _KEEP[ord("a") : ord("z") + 1] = True


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """types: rouge1 to rouge9, rougeL, rougeLsum; stemmer: "porter" takes suffixes off, as NLTK's does."""

    types: tuple[str, ...] = TYPES
    stemmer: Stemmer = "none"

    def __post_init__(self) -> None:
        for name in self.types:
            if not re.fullmatch(r"rouge([1-9]|L|Lsum)", name):
                raise SpecError(f"types: {name!r} is not rouge1 to rouge9, rougeL or rougeLsum")

    def build(self, **dims: Any) -> Callable[..., Rouge]:
        return functools.partial(rouge, types=self.types, stemmer=self.stemmer)


@dataclass(frozen=True, eq=False)
class Rouge:
    """scores: for each type (S, 3): precision, recall and F of each text; signature: the choices."""

    scores: Mapping[str, np.ndarray]
    signature: str

    def measured(self, name: str) -> Measured:
        """The mean F of one type, with its interval."""
        return mean_of(self.scores[name][:, 2], name, self.signature)


def rouge(
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    types: Sequence[str] = TYPES,
    stemmer: Stemmer = "none",
) -> Rouge:
    """Score S texts against their references; see the module.

    Raises:
        DataError: lists of different lengths, a text without a reference, or texts so long that their subsequences
            would take minutes; it names the row.
    """
    lists = reference_lists(hypotheses, references)
    counts = np.array([len(found) for found in lists])
    texts = [*hypotheses, *(text for found in lists for text in found)]
    found = _ids(texts, stemmer)
    ranges, own = found.ranges, np.repeat(np.arange(len(lists)), counts)
    mine, theirs = ranges[: len(lists)][own], ranges[len(lists) :]
    sizes = np.stack([np.diff(mine)[:, 0], np.diff(theirs)[:, 0]], axis=1)
    order = max((int(name[5]) for name in types if name[5].isdigit()), default=0)
    ngrams = matched_ngrams(found.ids, mine, theirs, np.arange(1, len(mine) + 1), order) if order else None
    out = {}
    for name in types:
        if name[5].isdigit():
            n = int(name[5])
            assert ngrams is not None
            scores = _scores(ngrams[:, n - 1], np.maximum(sizes - n + 1, 0))
        elif name == "rougeL":
            _check(np.prod(sizes, axis=1), MOST_CELLS, own, name)
            scores = _scores(common_lengths(found.ids, found.vocabulary, mine, theirs), sizes)
        else:
            scores = _scores(_union(found, len(lists), own, sizes), sizes)
        out[name] = _best(scores, counts)
    return Rouge(out, f"types:{','.join(types)}|stemmer:{stemmer}")


def _ids(texts: Sequence[str], stemmer: Stemmer) -> Ids:
    buffer, end = pack([utf8(text.lower()) for text in texts])
    found, places = words(buffer, end, len(texts), _KEEP)
    if stemmer == "none":
        return found
    letters = buffer[:end].tobytes().decode("latin-1")  # the words themselves are ASCII
    number: dict[str, int] = {}
    stems = [stem(letters[a:b]) if b - a > 3 else letters[a:b] for a, b in places.tolist()]
    renamed = np.array([number.setdefault(one, len(number)) for one in stems], np.int32)
    ids = renamed[found.ids] if len(renamed) else found.ids
    return Ids(ids, len(number), found.breaks, found.texts)


def _union(found: Ids, segments: int, own: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    mine, theirs = found.lines[:segments][own], found.lines[segments:]
    lengths = np.diff(spans(found.breaks))[:, 0]
    _check(np.prod(sizes, axis=1), MOST_SUM_CELLS, own, "rougeLsum")
    longest = np.maximum.reduceat(lengths, found.lines[:, 0]) + 1
    cells = longest[:segments][own] * longest[segments:]
    _check(cells, MOST_TABLE, own, "rougeLsum")
    table = np.empty(int(cells.max()), np.int32)
    return union_hits(found.ids, found.vocabulary, found.breaks, mine, theirs, table)


def _check(cells: np.ndarray, most: int, own: np.ndarray, name: str) -> None:
    if cells.max() > most:
        row = int(own[cells.argmax()]) + 1
        raise DataError(f"row {row}: its texts are too long for {name}; give shorter ones, or split them into lines")


def _scores(hits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(P,) hits and (P, 2) sizes of text and reference -> (P, 3) precision, recall, F."""
    precision, recall = (hits / np.maximum(sizes[:, side], 1) for side in (0, 1))
    both = precision + recall
    f = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)
    return np.stack([precision, recall, f], axis=1)


def _best(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The row with the best F of each group of consecutive rows, the first of equal ones."""
    if len(scores) == len(counts):
        return scores
    ends = np.cumsum(counts)
    return np.stack([scores[e - n : e][scores[e - n : e, 2].argmax()] for e, n in zip(ends, counts, strict=True)])
