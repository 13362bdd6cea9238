"""Sets of strings: lists of words, all but these, or expressions over their characters; and how JSON writes them.

A string has one text: only `"`, `\\` and control characters are escaped, by the short escape where there is one and by
`\\u00xx` (lower case) else. So and, or and not of strings are those of their texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from llmanac.core.errors import RequestError, SpecError
from llmanac.generate.constrain.automaton import automaton_of
from llmanac.generate.constrain.expressions import LAST_CHARACTER, And, Chars, Concat, Not, Regex, Repeat, Union

SHORT_TEXT = 100  # characters; the search of all ends takes their square
MAX_SIZE = 100_000  # of an expression, in parts
LONGEST = 8192  # characters of a string with a greater `maxLength`
ANY_CHARACTER = Chars(((0, 0xD7FF), (0xE000, LAST_CHARACTER)))
SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
ESCAPED = {**{code: f"\\u{code:04x}" for code in range(32)}, **SHORT}


def literal(text: str) -> Regex:
    """Exactly this text."""
    return Concat(tuple(Chars(((ord(c), ord(c)),)) for c in text))


def _written(chars: Chars) -> Regex:
    """A character as JSON writes it."""
    plain: list[tuple[int, int]] = []
    escapes: dict[str, list[str]] = {}  # the last characters of escapes that begin in the same way
    for low, high in chars.ranges:
        for code, text in ESCAPED.items():
            if low <= code <= high:
                escapes.setdefault(text[:-1], []).append(text[-1])
        for first, last in ((32, 33), (35, 91), (93, LAST_CHARACTER)):
            if max(low, first) <= min(high, last):
                plain.append((max(low, first), min(high, last)))
    items: list[Regex] = [Chars(tuple(plain))] if plain else []
    for start, ends in escapes.items():
        last_one = Chars(tuple((ord(c), ord(c)) for c in sorted(set(ends))))
        items.append(Concat((literal(start), last_one)))
    return items[0] if len(items) == 1 else Union(tuple(items))


WRITTEN = Repeat(_written(ANY_CHARACTER), 0)


def _encoded(regex: Regex) -> Regex:
    """The JSON texts, without quotes, of the strings that an expression matches."""
    if isinstance(regex, Chars):
        return _written(regex)
    if isinstance(regex, Repeat):
        return Repeat(_encoded(regex.item), regex.least, regex.most)
    if isinstance(regex, Not):
        return And((WRITTEN, Not(_encoded(regex.item))))
    return type(regex)(tuple(_encoded(item) for item in regex.items))


def ends(regex: Regex, text: str, start: int = 0) -> frozenset[int]:
    """Where the texts end that an expression matches from a place on."""
    known: dict[tuple[int, int], frozenset[int]] = {}

    def found(item: Regex, at: int) -> frozenset[int]:
        key = (id(item), at)
        if key not in known:
            known[key] = frozenset(search(item, at))
        return known[key]

    def search(item: Regex, at: int) -> set[int] | frozenset[int]:
        if isinstance(item, Chars):
            here = at < len(text) and any(low <= ord(text[at]) <= high for low, high in item.ranges)
            return {at + 1} if here else set()
        if isinstance(item, Concat):
            front: set[int] = {at}
            for part in item.items:
                front = {end for place in front for end in found(part, place)}
            return front
        if isinstance(item, Union):
            return frozenset().union(*(found(part, at) for part in item.items))
        if isinstance(item, And):
            return frozenset(range(at, len(text) + 1)).intersection(*(found(part, at) for part in item.items))
        if isinstance(item, Not):
            return set(range(at, len(text) + 1)) - found(item.item, at)
        front, seen, times = {at}, set[int](), 0
        while front and times <= len(text) + item.least:
            new = front - seen if times >= item.least else front
            seen |= front if times >= item.least else set()
            if times == item.most:
                break
            front = {end for place in new for end in found(item.item, place)}
            times += 1
        return seen

    return found(regex, start)


def matches(regex: Regex, text: str) -> bool:
    """Whether an expression matches a text as a unit.

    Raises:
        RequestError: a long text, and an expression that is too large for an automaton.
    """
    if len(text) <= SHORT_TEXT:
        return len(text) in ends(regex, text)
    automaton, state = automaton_of(regex), 0
    for byte in text.encode():
        state = int(automaton.moves[state, automaton.classes[byte]])
        if state < 0:
            return False
    return bool(automaton.final[state])


def _words(regex: Regex, limit: int) -> set[str] | None:
    """The strings that an expression matches; None: more than a limit, or not known."""
    if isinstance(regex, Chars):
        if sum(high - low + 1 for low, high in regex.ranges) > limit:
            return None
        return {chr(c) for low, high in regex.ranges for c in range(low, high + 1) if not 0xD800 <= c <= 0xDFFF}
    if isinstance(regex, Not):
        return None
    if isinstance(regex, And):
        for item in regex.items:
            found = _words(item, limit)
            if found is not None:
                return {w for w in found if all(matches(other, w) for other in regex.items)}
        return None
    total: set[str]
    if isinstance(regex, Union):
        total = set()
        for item in regex.items:
            found = _words(item, limit)
            if found is None or len(total := total | found) > limit:
                return None
        return total
    if isinstance(regex, Repeat):
        if regex.most is None or regex.most > limit:
            return None
        once, total, power = _words(regex.item, limit), set(), {""}
        for times in range(regex.most + 1):
            if times >= regex.least:
                total |= power
            if once is None or len(total) > limit or len(power) * max(len(once), 1) > limit * limit:
                return None if regex.most else {""}
            power = {a + b for a in power for b in once}
        return total if len(total) <= limit else None
    total = {""}
    for item in regex.items:
        found = _words(item, limit)
        if found is None or len(total) * max(len(found), 1) > limit * limit:
            return None
        total = {a + b for a in total for b in found}
    return total if len(total) <= limit else None


@dataclass(frozen=True)
class Strings:
    """A set of strings: the words, all strings but the words (`rest`), or what an expression matches.

    Strings of `doubt` belong neither to the set nor to its complement (a format that is not followed in all cases).
    """

    words: frozenset[str] = frozenset()
    rest: bool = False
    regex: Regex | None = None
    doubt: tuple[Regex, ...] = ()
    size: int = field(default=1, compare=False)

    @classmethod
    def of(cls, regex: Regex, doubt: tuple[Regex, ...] = (), size: int | None = None) -> Strings:
        """What an expression over characters matches.

        Raises:
            SpecError: it has more than MAX_SIZE parts.
        """
        size = _size(regex) if size is None else size
        if size > MAX_SIZE:
            raise SpecError(f"schema: its patterns combine to more than {MAX_SIZE:,} parts; make them simpler")
        found = _words(regex, 64)
        return cls(regex=regex, doubt=doubt, size=size) if found is None else cls(frozenset(found), doubt=doubt)

    def __contains__(self, word: str) -> bool:
        return matches(self.regex, word) if self.regex is not None else (word in self.words) != self.rest

    @cached_property
    def expression(self) -> Regex:
        """Over the characters of the strings."""
        if self.regex is not None:
            return self.regex
        words = Union(tuple(map(literal, sorted(self.words))))
        if not self.rest:
            return words
        return Not(words) if self.words else Repeat(ANY_CHARACTER, 0)

    def __and__(self, other: Strings) -> Strings:
        doubt = tuple(dict.fromkeys(self.doubt + other.doubt))
        for one, two in ((self, other), (other, self)):
            if one.regex is None and not one.rest:
                return Strings(frozenset(w for w in one.words if w in two), doubt=doubt)
            if one in (EVERY, two):
                return two
        if self.regex is None and other.regex is None:
            return Strings(self.words | other.words, True, doubt=doubt)
        parts = (*_parts(self.expression, And), *_parts(other.expression, And))
        return Strings.of(_together(parts), doubt, self.size + other.size)

    def counted(self) -> Strings:
        """Without the strings that are too long to be counted by an automaton; they are left open."""
        found, most = self, self.longest()
        while most is not None:
            limit = Repeat(ANY_CHARACTER, 0, most // 2)
            doubt = (*found.doubt, Repeat(ANY_CHARACTER, most // 2 + 1))
            found = Strings.of(_together((*_parts(found.expression, And), limit)), doubt, found.size + 1)
            most = found.longest()
        return found

    def longest(self) -> int | None:
        """The greatest length where counting to it takes too large an automaton; None where that is none."""
        most = [part.most for part in _parts(self.expression, And) if isinstance(part, Repeat)]
        if not isinstance(self.regex, And) or not any(most):
            return None
        try:
            automaton_of(_encoded(self.regex))
        except RequestError:
            return min(n for n in most if n)
        return None

    def __invert__(self) -> Strings:
        if self.doubt:
            excluded = And((_opposite(self.expression), *map(Not, self.doubt)))
            return Strings.of(excluded, self.doubt, self.size + 1)
        if self.regex is None:
            return Strings(self.words, rest=not self.rest)
        return Strings.of(_opposite(self.regex), (), self.size + 1)

    def __or__(self, other: Strings) -> Strings:
        if NONE in (self, other) or self == other:
            return other if self == NONE else self
        doubt = tuple(dict.fromkeys(self.doubt + other.doubt))
        if self.regex is None and other.regex is None:
            if self.rest and other.rest:
                return Strings(self.words & other.words, True, doubt=doubt)
            if self.rest or other.rest:
                less, more = (self, other) if self.rest else (other, self)
                return Strings(less.words - more.words, True, doubt=doubt)
            return Strings(self.words | other.words, doubt=doubt)
        for one, two in ((self, other), (other, self)):
            if one.regex is None and one.rest:
                return Strings(frozenset(w for w in one.words if w not in two), True, doubt=doubt)
        parts = (*_parts(self.expression, Union), *_parts(other.expression, Union))
        return Strings.of(Union(parts), doubt, self.size + other.size)

    def empty(self) -> bool:
        """Whether no string belongs to it; False where that would cost too much to know."""
        if self.regex is None:
            return not self.words and not self.rest
        if not _combined(self.regex):  # a pattern alone matches something
            return False
        try:
            return not automaton_of(self.regex).final.any()
        except RequestError:
            return False

    def text(self) -> Regex:
        """As JSON writes these strings, with quotes."""
        quote = literal('"')
        return Concat((quote, _encoded(self.expression), quote))


def _size(regex: Regex) -> int:
    if isinstance(regex, Chars):
        return 1
    if isinstance(regex, Repeat | Not):
        return 1 + _size(regex.item)
    return 1 + sum(map(_size, regex.items))


def _combined(regex: Regex) -> bool:
    return isinstance(regex, And | Not) or (isinstance(regex, Union) and all(map(_combined, regex.items)))


def _parts(regex: Regex, kind: type[And | Union]) -> Iterator[Regex]:
    yield from regex.items if isinstance(regex, kind) else (regex,)


def _opposite(regex: Regex) -> Regex:
    return regex.item if isinstance(regex, Not) else Not(regex)


def _together(parts: tuple[Regex, ...]) -> Regex:
    """What all parts match; lengths go into another part where they can, which spares counting in two automata."""
    least, most = 0, None
    others: list[Regex] = []
    for part in map(_bare, parts):
        if isinstance(part, Repeat) and part.item == ANY_CHARACTER:
            least = max(least, part.least)
            most = part.most if most is None else most if part.most is None else min(most, part.most)
        else:
            others.append(part)
    if most is not None and least > most:
        return Union(())
    if least or most is not None:
        sized = [_sized(part, least, most) for part in others]
        place = next((n for n, part in enumerate(sized) if part is not None), None)
        if place is None:
            others.append(Repeat(ANY_CHARACTER, least, most))
        else:
            others[place] = sized[place] or others[place]
    return others[0] if len(others) == 1 else And(tuple(dict.fromkeys(others)))


def _bare(regex: Regex) -> Regex:
    while isinstance(regex, Concat | Union) and len(regex.items) == 1:
        regex = regex.items[0]
    return regex


def _flat(regex: Regex) -> Iterator[Regex]:
    """What an expression joins."""
    regex = _bare(regex)
    if isinstance(regex, Concat):
        for item in regex.items:
            yield from _flat(item)
    else:
        yield regex


def _sized(regex: Regex, least: int, most: int | None) -> Regex | None:
    """The texts of so many characters, where only one part of an expression has no fixed length; else None."""
    items = list(_flat(regex))
    fixed, free = 0, None
    for place, item in enumerate(items):
        one = _bare(item.item) if isinstance(item, Repeat) else item
        if not isinstance(one, Chars):
            return None
        if isinstance(item, Repeat) and item.least != item.most:
            if free is not None:
                return None
            free = place
        else:
            fixed += item.least if isinstance(item, Repeat) else 1
    if free is None:
        return regex if fixed >= least and (most is None or fixed <= most) else Union(())
    part = items[free]
    assert isinstance(part, Repeat)
    low = max(part.least, least - fixed)
    high = part.most if most is None else most - fixed if part.most is None else min(part.most, most - fixed)
    if high is not None and high < low:
        return Union(())
    return Concat((*items[:free], Repeat(part.item, low, high), *items[free + 1 :]))


EVERY = Strings(rest=True)
NONE = Strings()


def lengths(least: int, most: int | None) -> Strings:
    """Strings of so many code points; those of more than LONGEST are left open where `most` is greater."""
    if not least and most is None:
        return EVERY
    if most is None or most <= LONGEST:
        return Strings.of(Repeat(ANY_CHARACTER, least, most))
    return Strings.of(Repeat(ANY_CHARACTER, least, LONGEST), (Repeat(ANY_CHARACTER, LONGEST + 1),))
