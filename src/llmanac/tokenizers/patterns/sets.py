r"""Sets of characters in Oniguruma's patterns, written for `regex`: properties, brackets, letters of either case.

Unicode's categories follow the version of `kernels/unicode.py`; where `regex` has moved a character since, the set says
so.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np
import regex

from llmanac.core.errors import SpecError
from llmanac.kernels import unicode

LETTERS_THAT_JOIN = frozenset("sf")
KELVIN, LONG_S = "\u212a", "\u017f"  # fold to k and s
CATEGORIES = {
    "letter": "L", "cased_letter": "LC", "uppercase_letter": "Lu", "lowercase_letter": "Ll", "titlecase_letter": "Lt",
    "modifier_letter": "Lm", "other_letter": "Lo", "mark": "M", "nonspacing_mark": "Mn", "spacing_mark": "Mc",
    "enclosing_mark": "Me", "number": "N", "decimal_number": "Nd", "letter_number": "Nl", "other_number": "No",
    "punctuation": "P", "connector_punctuation": "Pc", "dash_punctuation": "Pd", "open_punctuation": "Ps",
    "close_punctuation": "Pe", "initial_punctuation": "Pi", "final_punctuation": "Pf", "other_punctuation": "Po",
    "symbol": "S", "math_symbol": "Sm", "currency_symbol": "Sc", "modifier_symbol": "Sk", "other_symbol": "So",
    "separator": "Z", "space_separator": "Zs", "line_separator": "Zl", "paragraph_separator": "Zp",
    "other": "C", "control": "Cc", "format": "Cf", "private_use": "Co", "unassigned": "Cn",
}  # fmt: skip
NAMED = {
    "alnum": r"\p{Alphabetic}\p{Nd}", "alpha": r"\p{Alphabetic}", "alphabetic": r"\p{Alphabetic}", "space": r"\s",
    "white_space": r"\s", "digit": r"\p{Nd}", "xdigit": "0-9A-Fa-f", "ascii": r"\x00-\x7f", "cntrl": r"\p{Cc}",
    "blank": r"\t\p{Zs}", "upper": r"\p{Uppercase}", "uppercase": r"\p{Uppercase}", "any": r"\x00-\U0010ffff",
    "ideographic": r"\p{Ideographic}",
}  # fmt: skip
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
NUMERALS = r"\xb2\xb3\xb9\xbc-\xbe"  # of Latin-1, which \w has outside brackets only


class PatternError(SpecError):
    """A construct that is not supported; the caller names the pattern."""


def escaped(character: str) -> str:
    """A character as a literal, in brackets and outside."""
    if character.isascii():
        return character if character.isalnum() or character in " '" else f"\\x{ord(character):02x}"
    return f"\\u{ord(character):04x}" if character <= "\uffff" else f"\\U{ord(character):08x}"


@dataclass(frozen=True)
class Node:
    """A part of a pattern, written for `regex`.

    Attributes:
        text: the part; `unit` tells whether a quantifier may follow without a group.
        width: how many characters it takes at least.
        letters: the ASCII letters that it may match without regard to case, next to those of its neighbours.
        repeatable: whether it may be repeated; an assertion may not.
    """

    text: str
    width: int
    unit: bool = True
    letters: frozenset[str] = frozenset()
    repeatable: bool = True
    single: bool = False


@dataclass(frozen=True)
class Flags:
    ignore_case: bool = False
    dot_all: bool = False
    behind: bool = False  # inside a look-behind


@dataclass(frozen=True)
class Set:
    """A set of characters: ranges, and what is written as properties or brackets."""

    ranges: tuple[tuple[str, str], ...] = ()
    parts: tuple[str, ...] = ()
    caseless: bool = True  # whether `parts` hold all letters of either case together

    @classmethod
    def of(cls, character: str) -> Set:
        return cls(((character, character),))

    @classmethod
    def range(cls, first: str, last: str) -> Set:
        return cls(((first, last),))

    @property
    def is_empty(self) -> bool:
        return not self.ranges and not self.parts

    @property
    def text(self) -> str:
        """The set in brackets, or without where it is one property."""
        written = [escaped(a) if a == b else f"{escaped(a)}-{escaped(b)}" for a, b in self.ranges]
        part = self.parts[0] if len(self.parts) == 1 and not written else ""
        if part.startswith("[") or (part.startswith(("\\s", "\\p")) and part.count("\\") == 1):
            return part
        return f"[{''.join([*self.parts, *written])}]"

    def __or__(self, other: Set) -> Set:
        return Set(self.ranges + other.ranges, self.parts + other.parts, self.caseless and other.caseless)

    def __and__(self, other: Set) -> Set:
        return Set((), (f"[{self.bracketed}&&{other.bracketed}]",), self.caseless and other.caseless)

    @property
    def bracketed(self) -> str:
        text = self.text
        return text if text.startswith("[") else f"[{text}]"

    def negated(self) -> Set:
        inner = self.text
        if inner == r"\s":
            return Set((), (r"[^\s]",), self.caseless)
        nested = not self.ranges and len(self.parts) == 1 and self.parts[0].startswith("[")
        body = inner if nested or not inner.startswith("[") else inner[1:-1]
        return Set((), (f"[^{body}]",), self.caseless)

    def any_case(self) -> Set:
        """The set with the other case of its letters. Raises PatternError: letters outside ASCII, or cased properties.

        Their folding differs between the libraries, and some fold to several characters.
        """
        if not self.caseless:
            raise PatternError("(?i) with a property that tells cases apart is not supported")
        more: list[tuple[str, str]] = []
        for first, last in self.ranges:
            if ord(last) - ord(first) > 0x300 or any(
                map(_changes_with_case, range(max(ord(first), 128), ord(last) + 1))
            ):
                raise PatternError("(?i) with letters outside ASCII is not supported")
            more.append((first, last))
            for start, other in (("a", "A"), ("A", "a")):
                a, b = max(first, start), min(last, chr(ord(start) + 25))
                if a <= b:
                    shift = ord(other) - ord(start)
                    more.append((chr(ord(a) + shift), chr(ord(b) + shift)))
                    more += [(odd, odd) for odd, letter in ((LONG_S, "s"), (KELVIN, "k"))
                             if a <= chr(ord(letter) - 97 + ord(start)) <= b]  # fmt: skip
        return Set(tuple(dict.fromkeys(more)), self.parts, True)


def _changes_with_case(code_point: int) -> bool:
    character = chr(code_point)
    category = unicode.CATEGORIES[int(unicode.table()[code_point] & unicode.CATEGORY_MASK)]
    cased = {character.lower(), character.upper(), character.casefold(), character.title()} != {character}
    return cased or category in ("Lm", "Lu", "Ll", "Lt", "Mn", "Mc", "Me", "Cn")


ANY = Set((), (r"[\x00-\U0010ffff]",))


@functools.cache
def property_set(name: str, *, outside: bool, posix: bool = False) -> Set:
    r"""The characters of a property.

    Args:
        outside: outside brackets, where `\w` has six characters more.
        posix: a name of `[:…:]`, of which there are fewer.

    Raises:
        PatternError: a name that is not known here.
    """
    key = re.sub(r"[\s_-]", "", name.lower())
    if key == "word":
        return Set((), (WORD + NUMERALS if outside else WORD,))
    found = {re.sub("_", "", known): written for known, written in NAMED.items()}.get(key)
    if found is not None:
        return Set((), (found,), key not in ("upper", "uppercase"))
    if posix:
        raise PatternError(f"[:{name[:30]}:] is not supported")
    short = {re.sub("_", "", known): category for known, category in CATEGORIES.items()}
    category = short.get(key) or {value.lower(): value for value in short.values()}.get(key)
    if category is not None and category != "LC":
        return Set((), (_category(category),), category not in ("Ll", "Lu", "Lt", "M", "Mn"))
    if name.isascii() and name.replace("_", "").isalpha() and key not in ("zzzz", "unknown"):
        try:
            regex.compile(rf"\p{{Script={name}}}")
        except regex.error:
            pass
        else:
            return Set((), (rf"\p{{Script={name}}}",), False)
    raise PatternError(rf"the property \p{{{name[:30]}}} is not supported")


@functools.cache
def _every_character() -> str:
    """All characters in order, but for surrogates; those newer than `regex` knows as it is to read them."""
    points = np.arange(unicode.CODE_POINTS, dtype="<u4")
    text = np.delete(points, np.s_[0xD800:0xE000]).tobytes().decode("utf-32-le")
    return text.translate(unicode.newer_characters())


@functools.cache
def _category(category: str) -> str:
    """A category of Unicode 16, whatever `regex` follows."""
    ours = unicode.in_categories(category)
    theirs = np.zeros(unicode.CODE_POINTS, bool)
    for match in regex.finditer(rf"\p{{{category}}}+", _every_character()):
        first = match.start() + (0x800 if match.start() >= 0xD800 else 0)
        theirs[first : first + match.end() - match.start()] = True
    theirs[0xD800:0xE000] = ours[0xD800:0xE000]
    missing, extra = ("".join(escaped(chr(c)) for c in np.flatnonzero(d)) for d in (ours & ~theirs, theirs & ~ours))
    if extra:
        return rf"[[\p{{{category}}}{missing}]--[{extra}]]"
    return rf"[\p{{{category}}}{missing}]" if missing else rf"\p{{{category}}}"
