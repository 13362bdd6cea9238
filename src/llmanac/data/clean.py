"""Make text plain without changing what it says: line ends, control characters, trailing space, runs of blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmanac.data.documents import Document

# C0 and C1 controls but tab and newline, the byte order mark, and the noncharacters: none is ever written on purpose
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_LINE_ENDS = re.compile("\r\n|\r|\x0c|\u2028|\x85")
_TRAILING = re.compile(r"[ \t\u00a0]+(?=\n|\Z)")
_BLANKS = re.compile(r"\n{4,}")


def clean(text: str) -> str:
    """Newlines are `\\n`, no control characters, no trailing space, at most two blank lines together, trimmed ends.

    Indentation, case, punctuation and every letter stay; cleaning twice changes nothing.
    """
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    text = _BLANKS.sub("\n\n\n", _TRAILING.sub("", text))
    return text.strip("\n").rstrip()


def clean_documents(documents: Iterable[Document]) -> Iterator[Document]:
    """Clean every document; one that has nothing left is dropped."""
    for document in documents:
        text = clean(document.text)
        if text.strip():
            yield document if text == document.text else document.with_text(text)
