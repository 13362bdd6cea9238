"""Gopher's quality rules: a text of natural language has words of usual length, few symbols, sentences and stop words.

A document stays if it has 50 to 100,000 words, of 3 to 10 characters on average, at most one `#` or ellipsis to ten
words, at most 90% of lines that start with a bullet and 30% that end in an ellipsis, a letter in 80% of its words, and
two of the stop words *the, be, to, of, and, that, have, with* (Rae et al. 2021, appendix A.1.1). Rules are asked in
that order, and the first that is broken is the reason. Words are those of the reference (`kernels/english/words.py`); a
word of punctuation alone does not count towards number and length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.data.stages import Stage, StageSpec
from llmanac.data.stages._filter import Filter
from llmanac.data.stages._words import words_of
from llmanac.kernels.documents.filters import quality_counts
from llmanac.kernels.english.affixes import hash_of
from llmanac.kernels.english.words import code_points, tables

CARD = {
    "title": "Gopher quality rules",
    "paper": "Rae et al. 2021, Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
    "reference": "datatrove GopherQualityFilter",
    "aliases": {},
    "test": "tests/references/test_filters.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """The limits; 0 is no limit. The fractions are of words or lines."""

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbols: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_letter_words: float = 0.8
    min_stop_words: int = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")

    ranges = within(
        NOT_NEGATIVE,
        "min_words max_words min_word_length max_word_length max_symbols max_bullet_lines max_ellipsis_lines "
        "min_letter_words min_stop_words",
    )

    def build(self, **dims: Any) -> Stage:
        return GopherQuality(self)


class GopherQuality(Filter):
    """Asks the rules one after the other."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.classes = spec, tables()[0]
        hashes = [hash_of(code_points(word), 0, len(word)) for word in sorted(set(spec.stop_words))]
        self.stop_words = np.array(hashes, np.uint64)

    def reason(self, text: str) -> tuple[str, str] | None:
        s, found = self.spec, words_of(text)
        total = len(found.starts)
        counted = quality_counts(*found, self.classes, self.stop_words).tolist()
        words, characters, hashes, ellipses, lines, bullets, ends, letters, stops = counted
        if not words or words < s.min_words:
            return "gopher_short_doc", f"{words} words"
        if s.max_words and words > s.max_words:
            return "gopher_long_doc", f"{words} words"
        mean = characters / words
        if mean < s.min_word_length:
            return "gopher_below_avg_threshold", f"{mean:.2f} characters a word"
        if s.max_word_length and mean > s.max_word_length:
            return "gopher_above_avg_threshold", f"{mean:.2f} characters a word"
        for name, limit, ratio, what in (
            ("gopher_too_many_hashes", s.max_symbols, hashes / total, "# a word"),
            ("gopher_too_many_ellipsis", s.max_symbols, ellipses / total, "ellipses a word"),
            ("gopher_too_many_bullets", s.max_bullet_lines, bullets / lines, "of lines"),
            ("gopher_too_many_end_ellipsis", s.max_ellipsis_lines, ends / lines, "of lines"),
        ):
            if limit and ratio > limit:
                return name, f"{ratio:.3f} {what}"
        if letters / total < s.min_letter_words:
            return "gopher_below_alpha_threshold", f"{letters / total:.3f} of words have a letter"
        if stops < s.min_stop_words:
            return "gopher_enough_stop_words", f"{stops} stop words"
        return None
