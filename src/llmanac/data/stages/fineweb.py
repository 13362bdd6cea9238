"""FineWeb's own rules: lines of prose end in punctuation, are not all short, do not repeat, and are not a list.

A document goes if fewer than 12% of its lines end in terminal punctuation, more than 67% have at most 30 characters,
repeated lines hold over 1% of its characters, or it has more than 0.3 newlines a word (Penedo et al. 2024, section
3.6). Blank lines do not count. Rules are asked in that order; the first that is broken is the reason.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.data.stages import Stage, StageSpec
from llmanac.data.stages._filter import Filter
from llmanac.data.stages._words import code_points, words_of
from llmanac.kernels.documents.filters import line_counts
from llmanac.kernels.english.words import tables

CARD = {
    "title": "FineWeb quality rules",
    "paper": "Penedo et al. 2024, The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale",
    "reference": "datatrove FineWebQualityFilter",
    "aliases": {},
    "test": "tests/references/test_filters.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """The limits.

    Attributes:
        min_closed_lines: lowest fraction of lines that end in terminal punctuation.
        max_short_lines: highest fraction of lines of at most `short_line` characters.
        max_repeated: highest fraction of characters in lines that repeat an earlier one.
        max_newlines: most newlines a word.
    """

    min_closed_lines: float = 0.12
    max_short_lines: float = 0.67
    short_line: int = 30
    max_repeated: float = 0.01
    max_newlines: float = 0.3

    ranges = within(NOT_NEGATIVE, "min_closed_lines max_short_lines short_line max_repeated max_newlines")

    def build(self, **dims: Any) -> Stage:
        return FineWeb(self)


class FineWeb(Filter):
    """Asks the rules one after the other."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.classes = spec, tables()[0]

    def reason(self, text: str) -> tuple[str, str] | None:
        s = self.spec
        lines, closed, short, repeated, newlines = line_counts(code_points(text), self.classes, s.short_line)
        if lines == 0:
            return "empty", ""
        if closed / lines < s.min_closed_lines:
            return "line_punct_ratio", f"{closed / lines:.3f} of lines end in punctuation"
        if short / lines > s.max_short_lines:
            return "short_line_ratio", f"{short / lines:.3f} of lines are short"
        share = repeated / (len(text) - newlines)
        if share > s.max_repeated:
            return "char_dup_ratio", f"{share:.3f} of characters repeat"
        words = len(words_of(text).starts)
        if newlines / words > s.max_newlines:
            return "list_ratio", f"{newlines / words:.3f} newlines a word"
        return None
