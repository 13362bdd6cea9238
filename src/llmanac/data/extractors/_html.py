"""From the bytes of a page to a tree, in bounded time and memory: encodings, and pages made to do harm.

lxml's parser is linear in the page but for one thing, attributes of one tag, which are compared with each other; so
tags are looked at before. It cuts a page off below 256 levels; such a page is refused rather than used in part.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

from llmanac.data.extractors import Unusable, backend

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_DEPTH = 255  # the parser's own limit is one more
MAX_ATTRIBUTES = 1_000
MAX_ELEMENTS = 1_000_000
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.I)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.-]{1,40})""", re.I)
_WINDOWS = {"iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii", "iso8859-1", "iso_8859-1"}
# what XML forbids and the parser would stop at, and half surrogate pairs, which no encoding can hold
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_WIDE_TAG = re.compile(r"<[A-Za-z][^<>]{4000}")


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
    """The text codec of a declared encoding; empty for one that is unknown or no text encoding, or contradicts itself."""
    name = name.lower()
    if name in _WINDOWS:
        return "cp1252"
    try:
        info = codecs.lookup(name)
    except LookupError:
        return ""
    if not getattr(info, "_is_text_encoding", True) or info.name.startswith(("utf-16", "utf-32", "utf-7")):
        return ""  # a declaration that can be read as ASCII is in none of these
    return info.name


def parse(page: str | bytes, *, max_bytes: int) -> _Element:
    """The root element of a page.

    Args:
        max_bytes: a page longer than this (in bytes, or in characters of a `str`) is refused before it is parsed.

    Raises:
        Unusable: `page_too_large`, `too_many_attributes`, `nested_too_deep`, `too_many_elements` or `not_html`.
    """
    etree: Any = backend("lxml.etree", "structured")
    if len(page) > max_bytes:
        raise Unusable("page_too_large", f"{len(page)} bytes where {max_bytes} are allowed")
    text = _FORBIDDEN.sub("", decode(page) if isinstance(page, bytes) else page)
    _check_attributes(text)
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except (etree.LxmlError, ValueError) as error:
        raise Unusable("not_html", str(error)[:200]) from None
    if root is None:
        raise Unusable("not_html", "no element was found")
    return root


def _check_attributes(text: str) -> None:
    """Refuse a tag of very many attributes. Only tags of 4,000 characters and more are looked at: others have few."""
    for found in _WIDE_TAG.finditer(text):
        end = text.find(">", found.end())
        tag = text[found.start() : end if end >= 0 else len(text)]
        count = len(tag.split())
        if count > MAX_ATTRIBUTES and len(re.findall(r"[\s\"'/][^\s\"'=<>/]+", _VALUES.sub('""', tag))) > MAX_ATTRIBUTES:
            raise Unusable("too_many_attributes", f"a tag of over {MAX_ATTRIBUTES} attributes")


_VALUES = re.compile(r"\"[^\"]*\"|'[^']*'")
