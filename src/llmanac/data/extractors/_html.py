"""From the bytes of a page to a tree, in bounded time and memory: encodings, and pages made to do harm.

lxml's parser is linear in the page but for one thing, attributes of one tag, which are compared with each other; so
tags are counted before (`kernels/documents/html.py`). It cuts a page off below 256 levels; such a page is refused
rather than used in part.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.data.extractors import Unusable, backend
from llmanac.data.floods import page_flood
from llmanac.data.pages import ENCODINGS
from llmanac.kernels.documents.html import scan_tags

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_DEPTH = 200  # pages have up to 60 levels; the parser's own limit is 256
MAX_ATTRIBUTES = 1_000
MAX_ELEMENTS = 300_000
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.I)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.-]{1,40})""", re.I)
_WINDOWS = {"iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii", "iso8859-1", "iso_8859-1"}
# what XML forbids and the parser would stop at, and half surrogate pairs, which no encoding can hold
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def decode(page: bytes) -> str:
    """The text of a page by its byte order mark, else its declared encoding, else UTF-8, else Windows-1252.

    As browsers do, what is declared ISO-8859-1 or ASCII is read as Windows-1252; a declaration that the bytes
    contradict is passed over.
    """
    for mark, name in _MARKS:
        if page.startswith(mark):
            return page[len(mark) :].decode(name, "replace")
    head = page[:4096]
    found = _DECLARED.search(head) or _XML.search(head)
    names = [_codec(found[1].decode("ascii"))] if found else []
    for name in [*names, "utf-8"]:
        if name:
            try:
                return page.decode(name)
            except (UnicodeDecodeError, LookupError):
                continue
    mostly = page.decode("utf-8", "replace")
    if mostly.count("\ufffd") * 1000 < len(mostly) and names[:1] in ([], ["utf-8"]):
        return mostly  # a few broken bytes in a page that otherwise is UTF-8
    return page.decode("cp1252", "replace")


def _codec(name: str) -> str:
    """The codec of a declared encoding; empty for one that pages do not have, or that contradicts itself."""
    name = name.lower()
    if name in _WINDOWS:
        return "cp1252"
    name = ENCODINGS.get(name, "")  # those of the web only: some of Python's codecs take quadratic time
    return "" if name.startswith("utf-16") else name  # a declaration that can be read as ASCII is not in UTF-16


def checked(page: str | bytes, *, max_bytes: int) -> str:
    """A page as text that no parser is harmed by.

    Args:
        max_bytes: a page longer than this (in bytes, or in characters of a `str`) is refused before it is looked at.

    Raises:
        Unusable: `page_too_large`, `no_text` (a flood), `too_many_attributes` or `too_many_elements`.
    """
    if len(page) > max_bytes:
        raise Unusable("page_too_large", f"{len(page)} bytes where {max_bytes} are allowed")
    text = FORBIDDEN.sub("", decode(page) if isinstance(page, bytes) else page)
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
