"""From a page to a tree, in bounded time and memory, whatever the page holds.

lxml's parser is linear in the page but for one thing, attributes of one tag, which are compared with each other; so
tags are counted before (`kernels/documents/html.py`). It cuts a page off below 256 levels; such a page is refused
rather than used in part.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.data.extractors import Unusable, backend
from llmanac.data.floods import page_flood
from llmanac.data.pages import decode_page
from llmanac.kernels.documents.html import scan_tags

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_DEPTH = 200  # pages have up to 60 levels; the parser's own limit is 256
MAX_ATTRIBUTES = 1_000
MAX_ELEMENTS = 300_000
# what XML forbids and the parser would stop at, and half surrogate pairs, which no encoding can hold
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def checked(page: str | bytes, *, max_bytes: int) -> str:
    """A page as text that no parser is harmed by.

    Args:
        max_bytes: a page longer than this (in bytes, or in characters of a `str`) is refused before it is looked at.

    Raises:
        Unusable: `page_too_large`, `no_text` (a flood), `too_many_attributes` or `too_many_elements`.
    """
    if len(page) > max_bytes:
        raise Unusable("page_too_large", f"{len(page)} bytes where {max_bytes} are allowed")
    text = FORBIDDEN.sub("", decode_page(page) if isinstance(page, bytes) else page)
    if why := page_flood(text):
        raise Unusable("no_text", why)
    tags, attributes, most = scan_tags(np.frombuffer(text.encode("utf-8"), np.uint8))
    if most > MAX_ATTRIBUTES:
        raise Unusable("too_many_attributes", f"a tag of {most} attributes where {MAX_ATTRIBUTES} are allowed")
    if attributes > MAX_ELEMENTS * 3:
        raise Unusable("too_many_attributes", f"{attributes} attributes where {MAX_ELEMENTS * 3} are allowed")
    if tags > MAX_ELEMENTS:
        raise Unusable("too_many_elements", f"{tags} tags where {MAX_ELEMENTS} are allowed")
    return text


def parse(page: str | bytes, *, max_bytes: int) -> _Element:
    """The root element of a page.

    Raises:
        Unusable: as `checked` does, or `not_html`. Depth is looked at by who walks the tree.
    """
    etree: Any = backend("lxml.etree", "structured")
    text = checked(page, max_bytes=max_bytes)
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except (etree.LxmlError, ValueError) as error:
        raise Unusable("not_html", str(error)[:200]) from None
    if root is None:
        raise Unusable("not_html", "no element was found, or a single text of over 10,000,000 characters")
    return root
