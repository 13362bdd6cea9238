"""A folder of documents, cut into passages and indexed: what `llmanac index`, `retrieve` and `ask` read."""

from llmanac.retrieve.folder.chunks import PassagePiece, pieces_of
from llmanac.retrieve.folder.index import FolderIndex, FoundPassage, Passage

__all__ = ["FolderIndex", "FoundPassage", "Passage", "PassagePiece", "pieces_of"]
