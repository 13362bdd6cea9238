"""One pass over the bytes of a page that counts its tags and the attributes of its widest tag, before it is parsed.

A parser compares the attributes of a tag with each other, and keeps every element: a page made to do harm is seen here
in linear time and without memory. Comments, quoted values and the insides of scripts and the like are passed over, as
a parser does.
"""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

import numpy as np

from llmanac.kernels.text import cached, inner

# elements whose inside is text, whatever it looks like
RAW_TEXT = tuple(np.frombuffer(n, np.uint8) for n in (b"script", b"style", b"textarea", b"title", b"xmp", b"noembed"))
_NAMES = np.zeros((len(RAW_TEXT), 8), np.uint8)
_SIZES = np.array([len(name) for name in RAW_TEXT])
for _at, _name in enumerate(RAW_TEXT):
    _NAMES[_at, : len(_name)] = _name
OPEN, CLOSE, SLASH, BANG, EQUALS, DASH, DOUBLE, SINGLE = 60, 62, 47, 33, 61, 45, 34, 39


@inner(inline="always")
def _blank(byte):
    return byte == 32 or (9 <= byte <= 13)


@inner(inline="always")
def _letter(byte):
    return 97 <= (byte | 32) <= 122


@inner
def _named(page, at, end, name, size):
    """Whether the name at a place is `name`, in any case, and ends there."""
    if at + size > end:
        return False
    for i in range(size):
        if (page[at + i] | 32) != name[i]:
            return False
    return at + size == end or _blank(page[at + size]) or page[at + size] == CLOSE or page[at + size] == SLASH


@inner
def _after_raw_text(page, at, end, name, size):
    """Where the closing tag of a raw text element starts."""
    while at < end:
        if page[at] == OPEN and at + 1 < end and page[at + 1] == SLASH and _named(page, at + 2, end, name, size):
            return at
        at += 1
    return end


@inner
def _after_comment(page, at, end):
    while at + 2 < end:
        if page[at] == DASH and page[at + 1] == DASH and page[at + 2] == CLOSE:
            return at + 3
        at += 1
    return end


@inner
def _attribute_end(page, at, end):
    """Where an attribute that starts at a place ends, its value with it."""
    while at < end and not _blank(page[at]) and page[at] != CLOSE and page[at] != SLASH and page[at] != EQUALS:
        at += 1
    after = at
    while after < end and _blank(page[after]):
        after += 1
    if after >= end or page[after] != EQUALS:
        return at
    at = after + 1
    while at < end and _blank(page[at]):
        at += 1
    if at < end and (page[at] == DOUBLE or page[at] == SINGLE):
        quote = page[at]
        at += 1
        while at < end and page[at] != quote:
            at += 1
        return at + 1
    while at < end and not _blank(page[at]) and page[at] != CLOSE:
        at += 1
    return at


@cached
def scan_tags(page):
    """`(opening tags, attributes of all of them, attributes of the tag that has most)` of a page.

    Args:
        page: (n,) uint8, the page in an encoding that agrees with ASCII.
    """
    at, end, tags, total, most = 0, page.shape[0], 0, 0, 0
    while at < end:
        if page[at] != OPEN or at + 1 >= end:
            at += 1
            continue
        if page[at + 1] == BANG and at + 3 < end and page[at + 2] == DASH and page[at + 3] == DASH:
            at = _after_comment(page, at + 4, end)
            continue
        if not _letter(page[at + 1]):
            at += 1
            continue
        start = at + 1
        at = start
        while at < end and not _blank(page[at]) and page[at] != CLOSE and page[at] != SLASH:
            at += 1
        tags += 1
        attributes = 0
        while at < end and page[at] != CLOSE:
            if _blank(page[at]) or page[at] == SLASH:
                at += 1
                continue
            attributes += 1
            if page[at] == EQUALS:
                at += 1
            at = _attribute_end(page, at, end)
        total += attributes
        most = max(most, attributes)
        for i in range(_SIZES.shape[0]):
            if _named(page, start, end, _NAMES[i], _SIZES[i]):
                at = _after_raw_text(page, at, end, _NAMES[i], _SIZES[i])
    return tags, total, most
