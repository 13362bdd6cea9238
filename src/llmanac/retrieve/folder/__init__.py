"""A folder of documents, cut into passages and indexed: what `llmanac index`, `retrieve` and `ask` read."""

from __future__ import annotations

from llmanac.retrieve.folder.chunks import Piece, pieces_of
from llmanac.retrieve.folder.index import FolderIndex, Found, Passage

__all__ = ["FolderIndex", "Found", "Passage", "Piece", "pieces_of"]
