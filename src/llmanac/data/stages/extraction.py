"""Text out of pages: documents that are HTML go through an extractor, all others pass as they are.

A document is a page when its `meta["format"]` is "html". What comes out is text with `meta["format"]` "markdown", the
name of the extractor and the page's title. A page without text, or one built to exhaust a parser, is dropped with the
reason.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from llmanac.core.ranges import NOT_NEGATIVE, within
from llmanac.data.documents import Document
from llmanac.data.extractors import Extractor, ExtractorSpec, Unusable
from llmanac.data.extractors.structured import Spec as Structured
from llmanac.data.floods import text_flood
from llmanac.data.stages import Dropped, Stage, StageSpec

CARD = {
    "title": "Extraction: the text of HTML pages, without the site around it",
    "paper": "Barbaresi 2021, Trafilatura (ACL demo)",
    "reference": "F1 by the article extraction benchmark, next to trafilatura and resiliparse",
    "aliases": {},
    "test": "tests/references/test_extraction.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """How pages become text.

    Attributes:
        extractor: who gets the text out.
        min_characters: a page whose text is shorter is dropped.
    """

    extractor: ExtractorSpec = field(default_factory=Structured)
    min_characters: int = 1

    ranges = within(NOT_NEGATIVE, "min_characters")

    def build(self, **dims: Any) -> Stage:
        return ExtractionStage(self)


class ExtractionStage(Stage):
    """Runs the extractor over the pages among the documents."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.extractor = spec, spec.extractor.build()
        assert isinstance(self.extractor, Extractor)

    def one(self, document: Document) -> Document | Dropped:
        """The text of a page. Drops it as `no_text` (none, or a flood), or for what `Unusable` says of it."""
        if document.meta.get("format") != "html":
            return document
        try:
            found = self.extractor.extract(document.text)
        except Unusable as error:
            return Dropped(document, error.reason, error.detail)
        if len(found.text) < max(self.spec.min_characters, 1):
            return Dropped(document, "no_text", f"{len(found.text)} characters of text in {len(document.text)} of HTML")
        if why := text_flood(found.text):
            return Dropped(document, "no_text", why)
        meta = {**document.meta, "format": "markdown", "extractor": self.spec.extractor.name}
        if found.title:
            meta["title"] = found.title
        return replace(document, text=found.text, meta=meta)
