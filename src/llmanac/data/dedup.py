"""Exact duplicates in one stream: the first document with a text stays, every later one goes, for 16 bytes a document.

For corpora in shards, and for near-duplicates, see `data/stages` (`exact`, `lines`, `substring`, `minhash`).
"""

import hashlib
from collections.abc import Iterable, Iterator

from llmanac.data.documents import Document


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text; two texts share them with probability 2^-128. Half surrogates are taken as
    they are."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def drop_duplicates(documents: Iterable[Document], seen: set[bytes] | None = None) -> Iterator[Document]:
    """Drop documents whose text was already seen.

    Args:
        seen: the keys of texts already taken; give the same set to several calls to deduplicate across them.
    """
    seen = set() if seen is None else seen
    for document in documents:
        key = text_key(document.text)
        if key not in seen:
            seen.add(key)
            yield document
