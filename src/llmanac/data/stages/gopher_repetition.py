"""Gopher's repetition rules: a text that says the same lines, paragraphs or n-grams over and over teaches little.

A document is dropped if too many of its lines or paragraphs repeat an earlier one (by number or by characters), if its
most frequent 2-, 3- or 4-gram makes up too many of its characters, or if repeated 5- to 10-grams do (Rae et al. 2021,
table A1). Rules are asked in the order paragraphs, lines, frequent, repeated n-grams; the first that is broken is
the reason. As in the reference, a frequent n-gram is its words with blanks between them, a repeated one is its words
without.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import SpecError
from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.data.stages import Stage, StageSpec
from llmanac.data.stages._filter import Filter
from llmanac.data.stages._words import code_points, words_of
from llmanac.kernels.documents.filters import repeated_lines, repeated_n_grams
from llmanac.kernels.english.words import tables

CARD = {
    "title": "Gopher repetition rules",
    "paper": "Rae et al. 2021, Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
    "reference": "datatrove GopherRepetitionFilter",
    "aliases": {},
    "test": "tests/references/test_filters.py",
}

MOST_SIZES = 32  # of n-grams that a rule looks at: each is a pass over the text


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """The highest fractions; 0 is no limit.

    Attributes:
        max_lines, max_paragraphs: of lines, paragraphs that repeat an earlier one, by number.
        max_line_characters, max_paragraph_characters: of the document's characters in them.
        top_n_grams: of characters in the most frequent 2-gram, 3-gram and so on.
        repeated_n_grams: of characters in repeated 5-grams, 6-grams and so on.
    """

    max_lines: float = 0.3
    max_paragraphs: float = 0.3
    max_line_characters: float = 0.2
    max_paragraph_characters: float = 0.2
    top_n_grams: tuple[float, ...] = (0.2, 0.18, 0.16)
    repeated_n_grams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    ranges = within(
        NOT_NEGATIVE,
        "max_lines max_paragraphs max_line_characters max_paragraph_characters top_n_grams repeated_n_grams",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top_n_grams", "repeated_n_grams"):
            if len(getattr(self, name)) > MOST_SIZES:
                raise SpecError(f"{name}: {len(getattr(self, name))} sizes are more than {MOST_SIZES}; give fewer")

    def build(self, **dims: Any) -> Stage:
        return GopherRepetition(self)


class GopherRepetition(Filter):
    """Asks the rules one after the other."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.classes = spec, tables()[0]
        self.limits = np.array(spec.top_n_grams, np.float64), np.array(spec.repeated_n_grams, np.float64)

    def reason(self, text: str) -> tuple[str, str] | None:
        if not text:
            return "empty", ""
        s, size = self.spec, len(text)
        counted = repeated_lines(code_points(text), self.classes)
        paragraphs, paragraphs_twice, paragraph_characters, lines, lines_twice, line_characters = counted
        rules = (
            ("dup_para_frac", s.max_paragraphs, paragraphs_twice / paragraphs, "paragraphs"),
            ("dup_para_char_frac", s.max_paragraph_characters, paragraph_characters / size, "characters"),
            ("dup_line_frac", s.max_lines, lines_twice / lines, "lines"),
            ("dup_line_char_frac", s.max_line_characters, line_characters / size, "characters"),
        )
        for name, limit, share, what in rules:
            if limit and share > limit:
                return name, f"{share:.3f} of {what} repeat"
        n, share, top = repeated_n_grams(*words_of(text), *self.limits)
        if n:
            return (f"top_{n}_gram" if top else f"duplicated_{n}_n_grams"), f"{share:.3f} of characters"
        return None
