"""The library Resiliparse as a backend: a fast rule-based extraction of the main content, as plain text.

Bevendorff et al. 2018, Elastic ChatNoir. The fastest of the three, and the one that keeps least structure.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.data.extractors import Extracted, Extractor, ExtractorSpec, backend
from llmanac.data.extractors._html import checked

CARD = {
    "title": "Resiliparse as a backend",
    "paper": "Bevendorff et al. 2018, Elastic ChatNoir: Search Engine for the ClueWeb and the Common Crawl (ECIR)",
    "reference": "resiliparse itself",
    "aliases": {},
    "test": "tests/references/test_extraction.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ExtractorSpec):
    """What is kept.

    Attributes:
        main_content: whether only the main content is wanted, or all text of the page.
    """

    main_content: bool = True

    def build(self, **dims: Any) -> Extractor:
        return Resiliparse(self)


class Resiliparse(Extractor):
    """Hands each page to the library."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.library = spec, backend("resiliparse.extract.html2text", "resiliparse")

    def extract(self, html: str | bytes) -> Extracted:
        page = checked(html, max_bytes=self.spec.max_bytes)
        return Extracted(self.library.extract_plain_text(page, main_content=self.spec.main_content).strip())
