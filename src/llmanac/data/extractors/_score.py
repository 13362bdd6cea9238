"""How good an extraction is: 4-shingles of it against those of the text a person marked, as in the article extraction
benchmark (Scrapinghub 2019).

A text's shingles are its runs of four words (one shingle where it has fewer). With tp, fp, fn the shared, surplus and
missing shingles of a page, counted with multiplicity,

    precision = mean over pages of tp / (tp + fp),   recall = mean of tp / (tp + fn),   F1 = their harmonic mean.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

SHINGLE = 4
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Match:
    """Shingles of one page: shared with the marked text, surplus, missing."""

    shared: int
    surplus: int
    missing: int


@dataclass(frozen=True)
class ExtractionScore:
    """Over pages."""

    f1: float
    precision: float
    recall: float


def _shingles(text: str, width: int) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text)
    count = max(1, len(words) - width + 1)
    return Counter(tuple(words[i : i + width]) for i in range(count) if words)


def match(marked: str, found: str, width: int = SHINGLE) -> Match:
    """Compare the text of one page with what a person marked; at a width of 1, word by word, in any order."""
    want, have = _shingles(marked, width), _shingles(found, width)
    shared = sum((want & have).values())
    return Match(shared, sum(have.values()) - shared, sum(want.values()) - shared)


def score(matches: Iterable[Match]) -> ExtractionScore:
    """Over pages; one where nothing was found has no precision, one where nothing is marked no recall.

    Raises:
        ValueError: no page has a precision, or none a recall.
    """
    pages = list(matches)
    precisions = [m.shared / (m.shared + m.surplus) for m in pages if m.shared + m.surplus]
    recalls = [m.shared / (m.shared + m.missing) for m in pages if m.shared + m.missing]
    if not precisions or not recalls:
        raise ValueError(f"{len(pages)} pages: nothing was found or nothing is marked")
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    both = precision + recall
    return ExtractionScore(2 * precision * recall / both if both else 0.0, precision, recall)
