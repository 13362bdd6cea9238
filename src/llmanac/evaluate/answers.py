"""Scores of short answers against references: SQuAD's exact match and word F1.

Both compare normalised text: lower case, without punctuation, without the articles a, an and the, single spaces. F1 is
the harmonic mean of precision and recall over the words that both hold, counted with repeats; where either side has no
word, F1 is 1 if both are empty and else 0. Of several references the best one counts.

Paper: Rajpurkar et al. 2016, SQuAD, section 6.1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(answer: str, reference: str) -> float:
    words, wanted = normalise(answer).split(), normalise(reference).split()
    if not words or not wanted:
        return float(words == wanted)
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def f1(answer: str, references: str | Sequence[str]) -> float:
    """Word F1 of an answer against one reference or the best of several, between 0 and 1."""
    return max((_f1(answer, r) for r in _list(references)), default=0.0)


def exact_match(answer: str, references: str | Sequence[str]) -> float:
    """1 where the normalised answer is a normalised reference, else 0."""
    return float(any(normalise(answer) == normalise(r) for r in _list(references)))


def _list(references: str | Sequence[str]) -> Sequence[str]:
    return [references] if isinstance(references, str) else references
