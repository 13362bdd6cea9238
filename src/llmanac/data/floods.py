"""What has the form of a text and is one thing over and over: a flood of one symbol, of one entity, of one phrase.

Natural text is far from all three: its most frequent letter is below a fifth of it, and it compresses three to one,
tables of numbers ten to one. So a text is a flood where one symbol makes nine tenths of what is not space, or where it
is long and compresses fifty to one. In a page the symbol may be written as an entity (`&amp;`); and entities that are
declared out of other entities (`<!ENTITY a "&b;&b;">`) serve only to expand without end.
"""

import re
import zlib
from collections import Counter

FRACTION = 0.9  # of what is not space, for one symbol
FEWEST = 100  # symbols; a shorter text may be a line of stars
LONG = 10_000  # characters from which on repetition is looked at
RATIO = 50  # bytes that one compressed byte stands for
SAMPLED = 1000
_STRETCH = 8192
_ENTITY = re.compile(r"&#?\w{1,32};")
_SUBSET = re.compile(r"<!DOCTYPE[^>\[]{0,500}\[", re.IGNORECASE)
_SWELLING = re.compile(r"<!ENTITY[^<>]{0,1000}?&(?![#%]|(?:lt|gt|amp|quot|apos);)[^;<>\s]{1,32};")
_SUBSET_END = re.compile(r"\]\s*>")
_TAG = re.compile(r"<[^<>]*>")


def text_flood(text: str) -> str:
    """Why a text is a flood, in a few words; empty for a text that is none."""
    return _one_symbol(text) or _one_phrase(text)


def page_flood(page: str) -> str:
    """Why a page's HTML is a flood; empty for a page that is none. Repeated markup is no flood."""
    declared = _SUBSET.search(page[:4096])
    if declared and "<!ENTITY" in page:
        end = _SUBSET_END.search(page, declared.end())
        if found := _SWELLING.search(page, declared.end(), end.start() if end else len(page)):
            return f"it declares entities out of entities ({found[0][:40]!r})"
    found_in_all = _one_symbol(page) or _one_entity(page)
    if not found_in_all:
        return ""
    text = _TAG.sub("", page)  # what tags say (an image in an attribute) is no text
    return _one_symbol(text) or _one_entity(text)


def _visible(text: str) -> int:
    return len(text) - sum(text.count(space) for space in " \n\t\r\xa0")


def _one_symbol(text: str) -> str:
    sample = Counter("".join(text[:: max(1, len(text) // SAMPLED)].split()))
    if not sample:
        return ""
    symbol, seen = sample.most_common(1)[0]
    if seen < FRACTION / 2 * sample.total():  # far below: no need to count the rest
        return ""
    return _repeated(text, symbol)


def _one_entity(page: str) -> str:
    found = _ENTITY.search(page, len(page) // 2)
    return _repeated(page, found[0]) if found else ""


def _repeated(text: str, symbol: str) -> str:
    count, visible = text.count(symbol), _visible(text)
    if count < FEWEST or count * len(symbol) < FRACTION * visible:
        return ""
    return f"{symbol!r} {count:,} times in {visible:,} characters"


def _one_phrase(text: str) -> str:
    if len(text) < LONG:
        return ""
    places = range(0, len(text) - _STRETCH + 1, max(1, (len(text) - _STRETCH) // 3))
    sample = "".join(text[at : at + _STRETCH] for at in places).encode("utf-8", "replace")
    if len(zlib.compress(sample, 1)) * RATIO / 2 > len(sample):
        return ""
    data = " ".join(text.split()).encode("utf-8", "replace")
    packed = len(zlib.compress(data))
    if len(data) < LONG or packed * RATIO > len(data):
        return ""
    return f"{len(data):,} bytes of text hold no more than {packed:,}"
