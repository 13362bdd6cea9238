"""What comes off the ends of an English word, what splits it, what is a URL, and the table of special cases."""

# mypy: disable-error-code="assignment, call-arg"
# (numba types these functions itself)

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numba import njit

from llmanac.kernels.english.classes import (
    AFTER_DIGIT,
    ALPHA,
    BEFORE_PERIOD,
    DIGIT,
    HOST,
    INFIX,
    LOWER,
    PREFIX,
    QUOTE,
    SUFFIX,
    TOP_LEVEL,
    UPPER,
    WORD,
)  # fmt: skip
from llmanac.kernels.text import borrowed, inner

PRIME, SEED = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
DOT, PLUS, MINUS, STAR, CARET, COMMA, COLON, SLASH, AT, HASH, QUERY, UNDERSCORE = (ord(c) for c in ".+-*^,:/@#?_")
LESS, EQUALS, GREATER, TILDE, DOLLAR, ZERO, NINE = (ord(c) for c in "<=>~$09")
EN_DASH, EM_DASH, ELLIPSIS, DEGREE, APOSTROPHE, CURLY = 0x2013, 0x2014, 0x2026, 0xB0, 39, 0x2019
CURRENCIES = ("US$", "C$", "A$")

# The special cases: `keys` is a hash table of their hashes, `which` of their numbers (-1 where free); `letters` from
# `letters_at[i]` to `letters_at[i + 1]` spell case i; `parts` from `parts_at[i]` on are the lengths of its words.
# `units` are the hashes of units. `edges` and `nodes` are the hash table of a tree of patterns (the words that rules
# make of a case); `final` says at which nodes one ends; `longest` is the length of the longest case or word of one.
Special = namedtuple(
    "Special", "keys which letters letters_at parts parts_at units edges nodes final longest"
)  # fmt: skip


@inner(forceinline=True)
def borrowed_special(special):
    """The same tables without counts of references to them."""
    return Special(
        borrowed(special.keys), borrowed(special.which), borrowed(special.letters), borrowed(special.letters_at),
        borrowed(special.parts), borrowed(special.parts_at), borrowed(special.units), borrowed(special.edges),
        borrowed(special.nodes), borrowed(special.final), special.longest,
    )  # fmt: skip


@njit
def hash_of(text, start, end):
    """A 64-bit hash of `text[start:end]`."""
    value = SEED
    for at in range(start, end):
        value = (value ^ np.uint64(text[at])) * PRIME
        value ^= value >> np.uint64(32)
    return value


@inner
def special_at(text, start, end, special):
    """The number of the special case that `text[start:end]` is, or -1."""
    if end - start > special.longest:
        return -1
    key = hash_of(text, start, end)
    mask = np.uint64(special.keys.shape[0] - 1)
    slot = key & mask
    while special.which[slot] >= 0:
        if special.keys[slot] == key:
            which = special.which[slot]
            first = special.letters_at[which]
            if special.letters_at[which + 1] - first == end - start:
                same = True
                for i in range(end - start):
                    same = same and special.letters[first + i] == text[start + i]
                if same:
                    return which
        slot = (slot + np.uint64(1)) & mask
    return -1


@inner
def _digit(c):
    return ZERO <= c <= NINE


@inner
def _dots(text, start, end):
    """How many periods there are from a place on."""
    at = start
    while at < end and text[at] == DOT:
        at += 1
    return at - start


@inner
def find_prefix(text, start, end, classes):
    """The length of what comes off the start of a word, or 0."""
    first = text[start]
    if classes[first] & PREFIX:
        return 1
    second = text[start + 1] if start + 1 < end else np.uint32(0)
    if first == PLUS:
        return 0 if _digit(second) else 1
    if first == DOT:
        dots = _dots(text, start, end)
        return dots if dots > 1 else 0
    if second == DOLLAR and (first == 65 or first == 67):  # A$, C$
        return 2
    if first == 85 and second == 83 and start + 2 < end and text[start + 2] == DOLLAR:  # US$
        return 3
    return 0


@inner
def find_suffix(text, start, end, classes, special):
    """The length of the longest of what may come off the end of a word, or 0."""
    if start >= end:
        return 0
    last = text[end - 1]
    before = text[end - 2] if end - 2 >= start else np.uint32(0)
    more = text[end - 3] if end - 3 >= start else np.uint32(0)
    if last == DOT:
        dots = 1
        while end - dots - 1 >= start and text[end - dots - 1] == DOT:
            dots += 1
        if dots > 1:
            return dots
        if end - 2 < start:
            return 0
        if classes[before] & BEFORE_PERIOD or (classes[before] & UPPER and classes[more] & UPPER and end - 3 >= start):
            return 1
        heat = before | np.uint32(32)  # degrees F, C or K
        return 1 if more == DEGREE and (heat == 102 or heat == 99 or heat == 107) else 0
    if last == ELLIPSIS and before == ELLIPSIS and end - 2 >= start:
        return 2
    if (last == 115 or last == 83) and before in (APOSTROPHE, CURLY):  # 's
        return 2
    best = 1 if classes[last] & SUFFIX or (last == PLUS and _digit(before)) else 0
    if _digit(before) and classes[last] & AFTER_DIGIT:
        best = 1
    for back in range(2, 7):  # a unit has no digits, so it can only start behind the nearest
        at = end - back - 1
        if at < start:
            break
        if _digit(text[at + 1]):
            break
        if _digit(text[at]):
            key = hash_of(text, at + 1, end)
            for i in range(special.units.shape[0]):
                if special.units[i] == key:
                    return back
            break
    return best


@inner
def _hyphen(text, at, end, classes):
    """The length of a hyphen, a dash or a row of them that has a letter behind it, or 0."""
    first = text[at]
    if first in (MINUS, EM_DASH):
        for length in range(1, 4 if first == MINUS else 3):
            if at + length >= end:
                return 0
            if classes[text[at + length]] & ALPHA:
                return length
            if text[at + length] != first:
                return 0
        return 0
    if first in (EN_DASH, TILDE) and at + 1 < end and classes[text[at + 1]] & ALPHA:
        return 1
    return 0


@inner
def _infix(text, start, at, end, classes):
    """The length of what splits a word (that starts at `start`) at a place, or 0."""
    c = text[at]
    if classes[c] & INFIX:
        return 1
    if c == DOT:
        dots = _dots(text, at, end)
        if dots > 1:
            return dots
    before = classes[text[at - 1]] if at > start else np.uint32(0)
    behind = classes[text[at + 1]] if at + 1 < end else np.uint32(0)
    if c == DOT:
        return 1 if before & (LOWER | QUOTE) and behind & (UPPER | QUOTE) else 0
    digit = at > start and _digit(text[at - 1])
    if digit and c in (PLUS, MINUS, STAR, CARET) and at + 1 < end and (_digit(text[at + 1]) or text[at + 1] == MINUS):
        return 1
    if c == COMMA:
        return 1 if before & ALPHA and behind & ALPHA else 0
    if before & ALPHA or digit:
        length = _hyphen(text, at, end, classes)
        if length:
            return length
        if c in (COLON, LESS, GREATER, EQUALS, SLASH) and behind & ALPHA:
            return 1
    return 0


@inner
def infixes(text, start, at, end, classes):
    """`(place, length)` of the next infix of a word from a place on; the length is 0 where there is none."""
    while at < end:
        length = _infix(text, start, at, end, classes)
        if length:
            return at, length
        at += 1
    return end, 0


@inner
def _number(text, start, end):
    value = 0
    for at in range(start, end):
        value = value * 10 + np.int64(text[at]) - ZERO
    return value


@inner
def _octet(text, start, end, classes, place):
    """Whether `text[start:end]` is a valid part (0 to 3) of an address."""
    size = end - start
    if size < 1 or size > 3:
        return False
    for at in range(start, end):
        if not classes[text[at]] & DIGIT:
            return False
    first = text[start]
    if size < 3:
        return place == 1 or place == 2 or (_digit(first) and first != ZERO)
    if first == ZERO + 1:
        return True
    if first != ZERO + 2:
        return False
    if place == 0:
        return (text[start + 1] < ZERO + 2 and _digit(text[start + 1])) or (
            text[start + 1] == ZERO + 2 and ZERO <= text[start + 2] <= ZERO + 3
        )
    second, third = text[start + 1], text[start + 2]
    return ZERO <= second <= ZERO + 4 or (second == ZERO + 5 and ZERO <= third <= ZERO + (4 if place == 3 else 5))


@inner
def _is_address(text, start, end, classes):
    """Whether `text[start:end]` is a public address of four numbers."""
    places = np.empty(5, np.int64)
    places[0] = start
    dots = 0
    for at in range(start, end):
        if text[at] == DOT:
            dots += 1
            if dots > 3:
                return False
            places[dots] = at + 1
    if dots != 3:
        return False
    places[4] = end + 1
    for place in range(4):
        if not _octet(text, places[place], places[place + 1] - 1, classes, place):
            return False
    one, two = _number(text, start, places[1] - 1), _number(text, places[1], places[2] - 1)
    for at in range(places[1], places[2] - 1):
        if not _digit(text[at]):
            two = -1
    if one == 10 or one == 127:
        return False
    return not ((one == 169 and two == 254) or (one == 192 and two == 168) or (one == 172 and 16 <= two <= 31))


@inner
def _is_name(text, start, end, classes):
    """Whether `text[start:end]` is a host's name: parts of letters and digits, the last of two letters and more."""
    at, first = end, end
    while first > start and text[first - 1] != DOT:
        first -= 1
    if first == start or end - first < 2 or end - first > 63:
        return False
    for at in range(first, end):
        if not classes[text[at]] & TOP_LEVEL:
            return False
    begin = start
    for at in range(start, first):
        if text[at] == DOT:
            if at - begin < 1 or at - begin > 64:
                return False
            if not classes[text[begin]] & HOST or not classes[text[at - 1]] & HOST:
                return False
            begin = at + 1
        elif not (classes[text[at]] & HOST or text[at] == MINUS or text[at] == UNDERSCORE):
            return False
    return True


@inner
def _is_host_and_path(text, start, end, classes):
    """Whether `text[start:end]` is a host, perhaps with a port and a path."""
    stop = start
    while stop < end and text[stop] != COLON and text[stop] != SLASH and text[stop] != QUERY and text[stop] != HASH:
        if text[stop] == AT:
            return False
        stop += 1
    if not (_is_name(text, start, stop, classes) or _is_address(text, start, stop, classes)):
        return False
    if stop < end and text[stop] == COLON:
        at = stop + 1
        while at < end and classes[text[at]] & DIGIT:
            at += 1
        if at - stop < 3 or at - stop > 6:
            return False
        stop = at
    return stop == end or text[stop] == SLASH or text[stop] == QUERY or text[stop] == HASH


@inner
def is_url(text, start, end, classes):
    """Whether a word is a URL: an optional scheme, an optional user, a host, an optional port and path."""
    scheme = start
    while scheme < end and (classes[text[scheme]] & WORD or text[scheme] in (PLUS, MINUS, DOT)):
        scheme += 1
    inner = start
    marked = scheme - start >= 2 and scheme + 2 < end and text[scheme] == COLON
    if marked and text[scheme + 1] == SLASH and text[scheme + 2] == SLASH:
        inner = scheme + 3
    if _is_host_and_path(text, start, end, classes):
        return True
    if inner > start and _is_host_and_path(text, inner, end, classes):
        return True
    for at in range(start + 1, end):  # noqa: SIM110 (numba has no any() over a generator)
        if text[at] == AT and _is_host_and_path(text, at + 1, end, classes):
            return True
    return False


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _open(size: int) -> int:
    """A power of two with room for `size` entries of a hash table."""
    return 1 << max(4, (2 * size).bit_length())


def table_of(
    cases: Mapping[str, Sequence[str]], units: Iterable[str], patterns: Sequence[Sequence[str]] = ()
) -> Special:
    """The arrays that the kernels look special cases, units and patterns up in."""
    names = list(cases)
    keys = np.zeros(_open(len(names)), np.uint64)
    which = np.full(len(keys), -1, np.int64)
    for number, name in enumerate(names):
        key = int(hash_of(_points(name), 0, len(name)))
        slot = key & (len(keys) - 1)
        while which[slot] >= 0:
            slot = (slot + 1) & (len(keys) - 1)
        keys[slot], which[slot] = key, number
    tree: list[dict[str, int]] = [{}]
    final = [False]
    for pattern in patterns:
        node = 0
        for word in pattern:
            if word not in tree[node]:
                tree[node][word] = len(tree)
                tree.append({})
                final.append(False)
            node = tree[node][word]
        final[node] = True
    edges = np.zeros(_open(len(tree)), np.uint64)
    nodes = np.full(len(edges), -1, np.int64)
    for node, steps in enumerate(tree):
        for word, to in steps.items():
            own = (node * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            key = int(hash_of(_points(word), 0, len(word))) ^ own
            slot = (key ^ (key >> 29)) & (len(edges) - 1)
            while nodes[slot] >= 0:
                slot = (slot + 1) & (len(edges) - 1)
            edges[slot], nodes[slot] = key, to
    lengths = [len(part) for name in names for part in cases[name]]
    return Special(
        keys, which, _points("".join(names)),
        np.cumsum([0, *map(len, names)], dtype=np.int64), np.array(lengths, np.int64),
        np.cumsum([0, *(len(cases[name]) for name in names)], dtype=np.int64),
        np.array([hash_of(_points(u), 0, len(u)) for u in (*units, *CURRENCIES)], np.uint64),
        edges, nodes, np.array(final), max(map(len, names), default=0),
    )  # fmt: skip
