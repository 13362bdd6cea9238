"""The unit of text: a document, and the group that keeps related documents on one side of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmanac.core.errors import DataError, nearest


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

    def label(self, by: str) -> str:
        """What kind of text it is: by `folder`, the first folder of its id (or its input, where there is no folder), by
        `group`, or by an entry of `meta`.

        Raises:
            DataError: `meta` has no such entry.
        """
        if by == "group":
            return self.group
        if by == "folder":
            folder, slash, _ = self.id.partition("/")
            return folder if slash else str(self.meta.get("input", self.id))
        if by not in self.meta:
            known = ["folder", "group", *self.meta]
            raise DataError(f"document {self.id}: has no {by!r} to go by{nearest(by, known)} (has: {', '.join(known)})")
        return str(self.meta[by])

    def with_text(self, text: str) -> Document:
        """The same document with another text."""
        return replace(self, text=text)


class UniqueNames:
    """Gives every file a name of its own: the second `x.txt` is `x.txt~2`."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}  # a name, and the number its next holder begins at

    def free(self, name: str) -> str:
        """The name, or the first of those numbered from 2 on that nothing has yet."""
        found, number = name, self._taken.get(name, 1)
        while found in self._taken:
            number += 1
            found = f"{name}~{number}"
        self._taken[name], self._taken[found] = number, self._taken.get(found, 1)
        return found
