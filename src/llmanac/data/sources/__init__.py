"""Where text comes from: every source gives `Document`s, one after another, the same ones in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from llmanac.core.spec import Spec
from llmanac.data.documents import Document
from llmanac.data.quarantine import Problems


@dataclass(frozen=True, kw_only=True)
class SourceSpec(Spec):
    """Base of every source's Spec."""

    kind: ClassVar[str] = "source"

    def documents(self, problems: Problems | None = None) -> Iterator[Document]:
        """Every document, lazily and in a fixed order; iterating twice gives the same documents.

        Raises:
            DataError: the input cannot be used; the message names the file, the line or byte, and what to do.
        """
        raise NotImplementedError

    def problems(self) -> Problems:
        """What collects the rows this source cannot use; fatal unless the source has a choice about it."""
        return Problems()

    def version(self) -> str:
        """What tells one state of the text from another where the source is no set of files (a release, ...)."""
        return ""

    def build(self, **dims: Any) -> SourceSpec:
        """A source has no dimensions: the Spec is the source."""
        return super().build(**dims) if dims else self
