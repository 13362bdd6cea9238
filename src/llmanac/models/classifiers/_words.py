"""Texts as lists of words, and the words that a classifier knows.

A word is a run of letters and digits in lower case; `n't` is a word of its own, so that "don't" and "do n't" are both
`do, n't`; so are 's, 're and the like, each run of punctuation, and each character of scripts without spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.data.examples import Examples

LONGEST_WORD = 64  # characters; a longer one is cut, so that no vocabulary entry is as long as a file
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = f"[^\\W{_UNSPACED}]"
WORD = re.compile(rf"n't\b|{_LETTER}+?(?=n't\b)|{_LETTER}+|[{_UNSPACED}]|'(?:s|re|ve|ll|d|m)\b|[^\w\s]+")


def words_of(text: str) -> list[str]:
    """The words of a text, in order; see the module."""
    lower = text.lower().replace("’", "'")
    found = WORD.findall(lower)
    if len(lower) > LONGEST_WORD:
        return [word[:LONGEST_WORD] for word in found]
    return found


def with_ngrams(words: Sequence[str], longest: int) -> list[str]:
    """The words, then their pairs, and so on up to runs of `longest`, each joined by a blank."""
    out = list(words)
    for size in range(2, longest + 1):
        out += [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]
    return out


class WordVocabulary:
    """The words (or runs of words) that are features, each with its number; unknown ones are dropped.

    Attributes:
        words: by number, in alphabetical order.
        ngrams: the longest runs of words that count.
    """

    def __init__(self, words: Sequence[str], ngrams: int = 1) -> None:
        self.words, self.ngrams = list(words), ngrams
        self.numbers = {word: number for number, word in enumerate(self.words)}
        if len(self.numbers) != len(self.words):
            raise SpecError("vocabulary: a word appears twice")

    @classmethod
    def learn(
        cls, texts: Iterable[str], *, ngrams: int = 1, min_count: int = 1, most: int | None = None
    ) -> WordVocabulary:
        """The words of texts that occur at least `min_count` times; of these the `most` frequent.

        Raises:
            DataError: no word is left.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(with_ngrams(words_of(text), ngrams))
        kept = [word for word, count in counts.items() if count >= min_count]
        if not kept:
            raise DataError(
                f"texts: no word occurs {min_count} times or more; give more text, or lower min_count"
                if counts
                else "texts: they have no words"
            )
        if most is not None and len(kept) > most:
            kept = sorted(kept, key=lambda word: (-counts[word], word))[:most]
        return cls(sorted(kept), ngrams)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's known words."""
        get = self.numbers.get
        found = (get(word) for word in with_ngrams(words_of(text), self.ngrams))
        return [number for number in found if number is not None]

    def examples(self, texts: Sequence[str], classes: Sequence[int] | np.ndarray | None = None) -> Examples:
        """Texts as token lists."""
        return Examples.of([self.encode(text) for text in texts], classes)
