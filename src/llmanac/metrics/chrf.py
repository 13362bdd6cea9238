"""chrF: an F score over character n-grams, and over word n-grams for chrF++.

    P, R = mean over orders of matches / n-grams of the text, of the reference
    chrF = 100 (1 + b^2) P R / (b^2 P + R)

The mean is over the orders that both sides have. Character n-grams (orders 1 to 6) leave white space out; word n-grams
(orders 1 and 2 in chrF++) split one punctuation mark off a word. b = 2 weighs recall four times. Of several references
the one with the best score of its text counts. Shapes: S texts -> sums (S, 3 (C + W)) of n-grams of the text, of the
reference, and matches of each order.
Popović 2015, chrF; Popović 2017, chrF++.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.ranges import Range, within
from llmanac.kernels.metrics.counts import matched_ngrams
from llmanac.kernels.metrics.tokens import BETWEEN_SPACES
from llmanac.kernels.text import pack
from llmanac.metrics import MetricSpec
from llmanac.metrics._ids import spans, utf8, words
from llmanac.metrics.bleu import VERSION
from llmanac.metrics.statistics.corpus import Measured, reference_lists

CARD = {
    "title": "chrF and chrF++",
    "paper": "Popović 2015, doi:10.18653/v1/W15-3049; Popović 2017, doi:10.18653/v1/W17-4770",
    "reference": "sacrebleu's CHRF",
    "test": "tests/references/test_bleu.py::test_chrf_equals_sacrebleu",
    "aliases": {"chrf++": {"word_order": 2}},
}
_MARKS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@dataclass(frozen=True, kw_only=True)
class Spec(MetricSpec):
    """char_order, word_order: longest n-grams; beta: b; case: "lower" lowers texts; space: "kept" counts it."""

    char_order: int = 6
    word_order: int = 0
    beta: int = 2
    case: Literal["mixed", "lower"] = "mixed"
    space: Literal["dropped", "kept"] = "dropped"

    ranges = within(Range(1, 16), "char_order beta") | within(Range(0, 16), "word_order")

    def build(self, **dims: Any) -> Callable[..., Measured]:
        return functools.partial(chrf, spec=self)

    def signature(self, counts: Sequence[int]) -> str:
        """As sacrebleu writes it."""
        several = str(counts[0]) if len(set(counts)) == 1 else "var"
        case, space = "lc" if self.case == "lower" else "mixed", "yes" if self.space == "kept" else "no"
        orders = f"nc:{self.char_order}|nw:{self.word_order}"
        return f"nrefs:{several}|case:{case}|eff:yes|{orders}|space:{space}|version:{VERSION}"


def chrf(
    hypotheses: Sequence[str], references: Sequence[str | Sequence[str]], spec: Spec | None = None, **choices: Any
) -> Measured:
    """chrF of S texts against the references of each; `choices` are fields of the Spec.

    Raises:
        DataError: lists of different lengths, or a text without a reference; it names the row.
    """
    spec = spec or Spec(**choices)
    lists = reference_lists(hypotheses, references)
    counts = np.array([len(found) for found in lists])
    texts = [*hypotheses, *(text for one in lists for text in one)]
    if spec.case == "lower":
        texts = [text.lower() for text in texts]
    own = np.repeat(np.arange(len(lists)), counts)
    parts = [_statistics(*_characters(texts, spec), own, spec.char_order)]
    if spec.word_order:
        buffer, end = pack([utf8(" ".join(_words(text))) for text in texts])
        found = words(buffer, end, len(texts), BETWEEN_SPACES)[0]
        parts.append(_statistics(found.ids, found.ranges, own, spec.word_order))
    statistics = np.concatenate(parts, 1)
    if len(statistics) > len(lists):
        each, ends = scores(statistics, spec), np.cumsum(counts)
        best = [int(end - n + each[end - n : end].argmax()) for end, n in zip(ends, counts, strict=True)]
        statistics = statistics[best]
    name = f"chrF{spec.beta}{'+' * spec.word_order}"
    return Measured(name, statistics, lambda sums: scores(sums, spec), spec.signature(counts.tolist()))


def scores(sums: np.ndarray, spec: Spec) -> np.ndarray:
    """(..., 3 (C + W)) sums -> (...) chrF, in the dtype of the sums."""
    factor = spec.beta**2
    mine, theirs, matches = (sums[..., i::3] for i in range(3))
    both = (mine > 0) & (theirs > 0)
    orders = np.maximum(both.sum(-1), 1).astype(sums.dtype)
    precision = recall = np.zeros(sums.shape[:-1], sums.dtype)
    for n in range(mine.shape[-1]):
        precision = precision + np.where(both[..., n], matches[..., n] / np.maximum(mine[..., n], 1), 0)
        recall = recall + np.where(both[..., n], matches[..., n] / np.maximum(theirs[..., n], 1), 0)
    precision, recall = precision / orders, recall / orders
    below = factor * precision + recall
    return 100 * ((1 + factor) * precision * recall / np.where(below > 0, below, 1))


def _statistics(ids: np.ndarray, ranges: np.ndarray, own: np.ndarray, order: int) -> np.ndarray:
    """(P, 3 order) n-grams of the text (0 where the reference has none of that order), of the reference, matches."""
    segments = len(ranges) - len(own)
    mine, theirs = ranges[:segments][own], ranges[segments:]
    matches = matched_ngrams(ids, mine, theirs, np.arange(1, len(own) + 1), order)
    sizes = [np.maximum(np.diff(side) - np.arange(order), 0) for side in (mine, theirs)]
    return np.stack([sizes[0] * (sizes[1] > 0), sizes[1], matches], 2).reshape(len(own), -1).astype(np.float64)


def _characters(texts: Sequence[str], spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Code points of all texts, and the range of each text."""
    kept = texts if spec.space == "kept" else ["".join(text.split()) for text in texts]
    ids = np.frombuffer("".join(kept).encode("utf-32-le", "surrogatepass"), np.int32)
    return ids, spans(np.cumsum([len(text) for text in kept]))


def _words(text: str) -> list[str]:
    """Words between white space; one mark at a word's end, else one at its begin, is a word of its own."""
    out = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _MARKS:
            out += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _MARKS:
            out += [word[0], word[1:]]
        else:
            out.append(word)
    return out
