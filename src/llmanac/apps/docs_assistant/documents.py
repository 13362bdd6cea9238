"""The passages as a folder of documents that `llmanac ask`, `retrieve` and `index` read too: a heading and its lines.

    # shutil.copyfileobj(fsrc, fdst, length=0)

    copy data from file-like object fsrc to file-like object fdst

Each passage is one of the kept index (`retrieve/folder`). A line that would be taken for a heading, a fence or a
ruler is indented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llmanac.apps.docs_assistant.passages import Passage
from llmanac.core import files
from llmanac.core.errors import CheckpointError
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.index import WHERE

FOLDER, FILE = "documents", "python.md"
ENCODER, VECTORS = "encoder", "vectors"  # next to it, of `larger.py`
MARK, EMPTY = "# ", "..."  # of a title; of a passage that is a title alone
_MARKUP = re.compile(r"\s*(?:#{1,6}\s|`{3}|~{3}|[=\-~^]+\s*$)")


def text_of(passage: Passage) -> str:
    """A passage as the document holds it."""
    lines = (f"    {line}" if _MARKUP.match(line) else line for line in passage.lines)
    return "\n".join([f"{MARK}{passage.title}", "", *(lines if passage.lines else [EMPTY])])


def words_of(passage: Passage) -> str:
    """What the kept index holds of a passage: its heading and its text."""
    return f"{passage.title}\n{text_of(passage)}"


def write(passages: Iterable[Passage], folder: Path) -> FolderIndex:
    """Write the document, and make its index."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    files.write_text(place / FILE, "\n\n".join(map(text_of, passages)) + "\n")
    return FolderIndex.update(place)


def opened(folder: Path) -> FolderIndex:
    """The kept index of the document. Raises CheckpointError as `FolderIndex.open`."""
    return FolderIndex.open(folder / FOLDER / WHERE)


def read(index: FolderIndex, entries: Sequence[int]) -> list[Passage]:
    """The passages of an index.

    Args:
        entries: by passage, the number of its entry.

    Raises:
        CheckpointError: the document has other passages.
    """
    if len(index) != len(entries):
        raise CheckpointError(f"{index.place}: {len(index):,} passages, not {len(entries):,}; run the recipe again")
    out: list[Passage] = []
    for found, entry in zip(index.passages(), entries, strict=True):
        title, _, *lines = found.text.rstrip().split("\n")
        title = title.removeprefix(MARK)
        name = title.removeprefix("topic ") if title.startswith("topic ") else title.partition("(")[0]
        first = not out or out[-1].entry != entry
        said = () if lines == [EMPTY] else tuple(line.removeprefix("    ") for line in lines)
        out.append(Passage(name, title, said, int(entry), first))
    return out
