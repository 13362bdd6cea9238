"""Text out of HTML pages: the content stays, with its structure; the site around it does not.

An extractor looks at one page and knows nothing of the others. Text out of a page is light Markdown (`# heading`,
`- item`, `| cell | cell |`, fenced code, a blank line between paragraphs) where the extractor keeps structure at all.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from llmanac.core.errors import DataError
from llmanac.core.ranges import COUNT, within
from llmanac.core.spec import Spec


@dataclass(frozen=True)
class Extracted:
    """The text of a page, and its title (empty where it states none)."""

    text: str
    title: str = ""


class Unusable(DataError):
    """A page that no text can be extracted from: `reason` is one of a few fixed words, `detail` what was measured."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Extractor:
    """Gets the text out of pages, one at a time."""

    def extract(self, html: str | bytes) -> Extracted:
        """The text of one page.

        Args:
            html: the page; bytes are decoded by their byte order mark, then what the page declares, then as UTF-8,
                then as Windows-1252.

        Raises:
            Unusable: the page is too large, too deep, a flood of one symbol, has a tag of too many attributes, or
                cannot be parsed.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec(Spec):
    """`build() -> Extractor`.

    Attributes:
        max_bytes: a longer page is refused.
    """

    kind: ClassVar[str] = "extractor"

    max_bytes: int = 20_000_000

    ranges = within(COUNT, "max_bytes")

    def build(self, **dims: Any) -> Extractor:
        """An extractor has no dimensions. Raises DataError where a library it needs is not installed."""
        raise NotImplementedError


def backend(module: str, name: str) -> ModuleType:
    """A library that an extractor needs. Raises DataError with what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        distribution = module.partition(".")[0]
        raise DataError(
            f"extractor {name!r}: it needs the library {distribution}; pip install 'llmanac[data]' or {distribution}"
        ) from None
