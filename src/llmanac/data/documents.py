"""The unit of text: a document, and the group that keeps related documents on one side of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        id: unique within its source (`notes/a.txt`, `train.jsonl:17`, `docstrings/shutil`).
        text: the text itself.
        group: the unit of the train/held-out split: documents of one group always stay together.
        meta: what the manifest reports: `input` (file or package the text came from), `license`, and anything else.
    """

    id: str
    text: str
    group: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Length in UTF-8 bytes."""
        return len(self.text.encode("utf-8"))

    def with_text(self, text: str) -> Document:
        """The same document with another text."""
        return replace(self, text=text)
