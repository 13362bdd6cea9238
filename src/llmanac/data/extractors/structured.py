"""Our extractor: the part of the page that says most with the fewest links, as light Markdown.

Every block of text (paragraph, item, cell, heading) is worth its length, less where it is links,

    worth(v) = sum over the blocks b in v of length(b) * max(0, 1 - 2 * links(b) / length(b)).

What is hidden, in navigation or a footer, an inset, a series of comments or of teasers, or under a class that names a
share bar or a sidebar goes, unless the page then has nothing left. The content is the smallest part of the tree that
holds most of the worth,

    content = deepest v with worth(v) >= keep * worth(main part),

stopping where parts of one kind, paragraphs or structure (a list, code, a table) would stay behind. Inside it what is
mostly links and has no paragraph goes too, and the heading that repeats the page's title. Text and link density after
Kohlschuetter et al. 2010, the worth of a subtree after Readability; the weights are our own, and
`docs/evidence/extraction` has the scores on pages that the rules were not written on.
"""

from dataclasses import dataclass
from typing import Any, Literal

from llmanac.data.extractors import Extracted, Extractor, ExtractorSpec

CARD = {
    "title": "Structured extraction: boilerplate out by text and link density, structure kept as Markdown",
    "paper": "Kohlschuetter et al. 2010, Boilerplate Detection using Shallow Text Features (WSDM)",
    "reference": "trafilatura, resiliparse (F1 on the same pages)",
    "aliases": {},
    "test": "tests/references/test_extraction.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ExtractorSpec):
    """What is kept.

    Attributes:
        heading: "inside" keeps the headings in the content; one above it, or that repeats the page's title,
            is left to the title. "always" keeps that one too.
    """

    heading: Literal["inside", "always"] = "inside"

    def build(self, **dims: Any) -> Extractor:
        return StructuredExtractor(self)


class StructuredExtractor(Extractor):
    """HTML to light Markdown."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def extract(self, html: str | bytes) -> Extracted:
        from llmanac.data.extractors import _content, _html, _markdown

        page = _content.ParsedPage(_html.parse(html, max_bytes=self.spec.max_bytes))
        content = page.content()
        page.begin_at_title(content, title="out" if self.spec.heading == "inside" else "in")
        heading = page.heading(content) if self.spec.heading == "always" else None
        text = _markdown.render(page, content, heading)
        return Extracted(_html.FORBIDDEN.sub("", text).strip("\n"), _html.FORBIDDEN.sub("", page.title()))
