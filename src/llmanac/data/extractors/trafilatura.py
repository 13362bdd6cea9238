"""The library trafilatura as a backend: rules for the parts of a page, with readability and jusText to fall back on.

Barbaresi 2021, Trafilatura: A Web Scraping Library and Command-Line Tool for Text Discovery and Extraction. It keeps
little structure; its text is what `structured` is measured against.
"""

from dataclasses import dataclass
from typing import Any, Literal

from llmanac.data.extractors import Extracted, Extractor, ExtractorSpec, backend
from llmanac.data.extractors._html import checked

CARD = {
    "title": "trafilatura as a backend",
    "paper": "Barbaresi 2021, Trafilatura (ACL demo)",
    "reference": "trafilatura itself",
    "aliases": {},
    "test": "tests/references/test_extraction.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ExtractorSpec):
    """What is kept.

    Attributes:
        format: "txt" for text alone, "markdown" for headings, lists, tables and code too.
    """

    format: Literal["txt", "markdown"] = "markdown"

    def build(self, **dims: Any) -> Extractor:
        return Trafilatura(self)


class Trafilatura(Extractor):
    """Hands each page to the library."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.library = spec, backend("trafilatura", "trafilatura")

    def extract(self, html: str | bytes) -> Extracted:
        page = checked(html, max_bytes=self.spec.max_bytes)
        text = self.library.extract(page, include_comments=False, output_format=self.spec.format)
        return Extracted(text or "")
