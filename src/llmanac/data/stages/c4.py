"""C4's rules: lines that are no sentence are cut, and a page of placeholder text or code is dropped.

A line stays if it ends in `.`, `?`, `!` or a quotation mark (and not in an ellipsis), has three words or more, none of
them over 1,000 characters, and says nothing of JavaScript, of cookies or of terms of use; citations like `[12]` and
`[edit]` are taken out of it. A text with "lorem ipsum" or a curly bracket in such a line goes, and so does one of
fewer than five sentences (Raffel et al. 2020, section 2.2). Lines are asked in order, so the first reason counts.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage, StageSpec
from llmanac.data.stages._words import code_points
from llmanac.kernels.documents.c4_lines import CURLY_BRACKET, LOREM_IPSUM, kept_lines
from llmanac.kernels.english.words import sentences, tables

CARD = {
    "title": "C4 line and page rules",
    "paper": "Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    "reference": "datatrove C4QualityFilter",
    "aliases": {},
    "test": "tests/references/test_filters.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """The limits; a negative number is no limit.

    Attributes:
        min_sentences: a text of fewer goes.
        min_words: a line of fewer goes.
        max_word_length: a line with a longer word goes.
    """

    min_sentences: int = 5
    min_words: int = 3
    max_word_length: int = 1000

    def build(self, **dims: Any) -> Stage:
        return C4(self)


class C4(Stage):
    """Takes lines out of documents, and drops documents."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.tables = spec, tables()

    def one(self, document: Document) -> Document | Dropped:
        """One document with the lines that stay, or dropped."""
        points = code_points(document.text)
        why, out, starts, ends = kept_lines(points, self.tables[0], self.spec.min_words, self.spec.max_word_length)
        if why == LOREM_IPSUM:
            return Dropped(document, "lorem_ipsum")
        if why == CURLY_BRACKET:
            return Dropped(document, "curly_bracket")
        if self.spec.min_sentences >= 0:
            found = int(sentences(out, starts, ends, *self.tables).sum())
            if found < self.spec.min_sentences:
                return Dropped(document, "too_few_sentences", f"{found} sentences")
        text = out.tobytes().decode("utf-32-le", "surrogatepass").strip()
        return document if text == document.text else document.with_text(text)
