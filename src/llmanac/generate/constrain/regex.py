r"""Regular expressions as trees: what Python's `re` and ECMA-262 read alike, each with its own meaning.

Characters, `.`, classes, escapes (`\xhh`, `\uhhhh`, `\u{h}`, `\Uhhhhhhhh`, `\cX`), `\d \w \s` and their opposites,
`\p{L}` (general categories), alternatives, groups, `* + ? {n} {n,} {,m} {n,m}` (lazy ones match the same texts), `^`
and `$` (the ends of the text, not of lines), and the flags `(?a)`, `(?i)`, `(?s)` at the start or of a group.
References to groups, look-around, `\b`, possessive quantifiers and atomic groups are refused by name.

`parse_regex` is for texts that match as a unit, as `re.fullmatch` of Python has it: `\d`, `\w` and `\s` are those of
Unicode, and `$` is also before a new line that ends the text. `search_regex` has the meaning of JSON Schema's
`pattern`: the text has a match somewhere, as ECMA-262 finds it, where `\d` and `\w` are ASCII and `{,m}` is text.
"""

from dataclasses import dataclass, replace

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.generate.constrain._json_strings import matches
from llmanac.generate.constrain._utf8 import (
    ASCII,
    CATEGORIES,
    ECMA,
    EVERY,
    LONG_NAMES,
    Ranges,
    cases,
    category_of,
    normal,
    others,
    unicode_classes,
)
from llmanac.generate.constrain.expressions import LAST_CHARACTER, Chars, Concat, Regex, Repeat, Union

LONGEST, MOST_REPEATS, DEEPEST = 1 << 16, 100_000, 100
EMPTY, NOTHING, ANYTHING = Concat(()), Union(()), Repeat(Chars(EVERY), 0)
CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
REFUSED = {
    "?=": "look-ahead", "?!": "look-ahead", "?<=": "look-behind", "?<!": "look-behind", "?>": "an atomic group",
    "?(": "a condition", "?P=": "a reference to a group", "?P>": "recursion", "?&": "recursion", "?R": "recursion",
    "?#": "a comment", "?|": "a branch reset",
}  # fmt: skip

# A part of an expression by what it asks of its place: whether it begins the text, whether it ends it; LINE: it ends it
# or is before the new line that does.
LINE = 2
Places = dict[tuple[bool, int], Regex]


@dataclass(frozen=True)
class RegexFlags:
    ignore_case: bool = False
    dot_all: bool = False
    ecma: bool = False
    ascii: bool = False


def parse_regex(text: str, *, ignore_case: bool = False) -> Regex:
    """The texts that match as a unit. Raises RequestError that names a construct that is not supported."""
    return _joined([*RegexReader(text, RegexFlags(ignore_case)).whole().values()])


def search_regex(text: str) -> Regex:
    """The texts that have a match somewhere. Raises RequestError as `parse_regex` does."""
    found = RegexReader(text, RegexFlags(ecma=True)).whole()
    return _joined(
        [
            Concat((*(() if begins else (ANYTHING,)), part, *(() if ends else (ANYTHING,))))
            for (begins, ends), part in found.items()
        ]
    )


def _joined(items: list[Regex]) -> Regex:
    return items[0] if len(items) == 1 else Union(tuple(items))


class RegexReader:
    """Reads an expression from left to right."""

    def __init__(self, text: str, flags: RegexFlags) -> None:
        self.text, self.at, self.flags, self.depth = text, 0, flags, 0
        if len(text) > LONGEST:
            raise RequestError(f"regex: {len(text):,} characters are more than {LONGEST:,}; make it shorter")

    def error(self, why: str, at: int | None = None) -> RequestError:
        place = self.at if at is None else at
        near = self.text[max(0, place - 10) : place + 20]
        return RequestError(f"regex: {why} (at character {place + 1}, near {near!r})")

    def skip(self, text: str) -> bool:
        found = self.text.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def take(self) -> str:
        if self.at >= len(self.text):
            raise self.error("it ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def until(self, mark: str) -> str:
        end = self.text.find(mark, self.at)
        if end < 0:
            raise self.error(f"a {mark!r} is missing")
        found, self.at = self.text[self.at : end], end + 1
        return found

    # ------------------------------------------------------------------------------ alternatives, sequences, repeats
    def whole(self) -> Places:
        found = self.alternatives()
        if self.at < len(self.text):
            raise self.error("a ')' without a '('")
        return found

    def alternatives(self) -> Places:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error(f"groups are nested more than {DEEPEST} deep")
        found: dict[tuple[bool, int], list[Regex]] = {}
        while True:
            for place, part in self.sequence().items():
                found.setdefault(place, []).append(part)
            if not self.skip("|"):
                break
        self.depth -= 1
        return {place: _joined(parts) for place, parts in found.items()}

    def sequence(self) -> Places:
        runs: list[Regex] = []  # of the usual case, in which nothing asks for a place
        whole: Places = {(False, False): EMPTY}
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            part = self.repeated()
            if [*part] == [(False, False)]:
                runs.append(part[False, False])
                continue
            whole = _after(_after(whole, {(False, False): Concat(tuple(runs))}), part)
            runs = []
        return _after(whole, {(False, False): runs[0] if len(runs) == 1 else Concat(tuple(runs))})

    def repeated(self) -> Places:
        start = self.at
        part = self.atom()
        bounds = self.quantifier()
        if bounds is not None:
            least, most = bounds
            if self.skip("+"):
                raise self.error("possessive quantifiers are not supported", start)
            self.skip("?")
            if self.quantifier() is not None:
                raise self.error("a quantifier behind another one; use a group", start)
            if [*part] == [(False, False)]:
                part = {(False, False): Repeat(part[False, False], least, most)}
            elif (least, most) == (0, 1):
                part = {**part, (False, False): Union((part.get((False, False), NOTHING), EMPTY))}
            elif (least, most) != (1, 1):
                raise self.error("^ or $ inside of a repeat is not supported", start)
        return part

    def quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.skip(sign):
                return bounds
        end = self.text.find("}", self.at)
        if not self.text.startswith("{", self.at) or end < 0:
            return None
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        low = "0" if not low and comma and not self.flags.ecma else low
        if not ((low + high).isdecimal() and (low + high).isascii() and low):
            return None  # a brace that is text
        if len(low) > 6 or len(high) > 6 or max(int(low), int(high or 0)) > MOST_REPEATS:
            raise self.error(f"a repeat is of more than {MOST_REPEATS:,} times")
        least, most = int(low), int(high) if high else None if comma else int(low)
        if most is not None and most < least:
            raise self.error("the numbers of a repeat are in the wrong order")
        self.at = end + 1
        return least, most

    # ------------------------------------------------------------------------------ single parts
    def atom(self) -> Places:
        start, character = self.at, self.take()
        if character == "(":
            return self.group(start)
        if character == "^":
            return {(True, False): EMPTY}
        if character == "$":
            return {(False, True if self.flags.ecma else LINE): EMPTY}
        if character in "*+?{":
            self.at = start
            if self.quantifier() is not None:
                raise self.error(f"nothing is repeated by {character!r}", start)
            self.at = start + 1
        if character == ".":
            ends: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029)) if self.flags.ecma else ((10, 10),)
            return {(False, False): Chars(EVERY if self.flags.dot_all else others(ends))}
        if character == "[":
            return {(False, False): Chars(self.bracket(start))}
        if character == "\\":
            if self.skip("A"):
                return {(True, False): EMPTY}
            if self.skip("z") or self.skip("Z"):
                return {(False, True): EMPTY}
            return {(False, False): Chars(self.cased(self.escape(False)))}
        return {(False, False): Chars(self.cased(((ord(character), ord(character)),)))}

    def group(self, start: int) -> Places:
        outside = self.flags
        for sign in sorted(REFUSED, key=len, reverse=True):
            if self.text.startswith(sign, self.at):
                raise self.error(f"{REFUSED[sign]} is not supported", start)
        if self.skip("?P<") or self.skip("?<"):
            self.until(">")
        elif self.skip("?"):
            names = self.at
            while self.at < len(self.text) and self.text[self.at] not in ":)":
                self.at += 1
            self.set_flags(self.text[names : self.at], start)
            if self.take() == ")":
                if start:
                    raise self.error("flags for what follows must be at the start; use (?i:...)", start)
                return {(False, False): EMPTY}
        found = self.alternatives()
        if not self.skip(")"):
            raise self.error("a ')' is missing")
        self.flags = outside
        return found

    def set_flags(self, names: str, start: int) -> None:
        on, _, off = names.partition("-")
        for name in on + off:
            if name == "i":
                self.flags = replace(self.flags, ignore_case=name in on)
            elif name == "s":
                self.flags = replace(self.flags, dot_all=name in on)
            elif name in on and name in "au":
                self.flags = replace(self.flags, ascii=name == "a")
            else:
                raise self.error(f"the flag {name!r} is not supported", start)

    def escape(self, bracket: bool) -> Ranges:
        """The characters of an escape, behind its backslash."""
        start, name = self.at - 1, self.take()
        if name in "dwsDWS":
            sets = ECMA if self.flags.ecma else ASCII if self.flags.ascii else unicode_classes()
            return sets[name] if name in sets else others(sets[name.lower()])
        if name in "pP":
            return self.category(name == "P", start)
        if bracket and name == "b":
            return ((8, 8),)
        if name in "bB":
            raise self.error(f"\\{name} is not supported", start)
        if name == "k" or name in "123456789":
            raise self.error("a reference to a group is not supported", start)
        if name == "0" and self.text[self.at : self.at + 1].isdecimal():
            raise self.error("octal escapes are not supported; use \\xhh", start)
        if name in CONTROLS:
            return ((ord(CONTROLS[name]),) * 2,)
        if name == "c":
            letter = self.take()
            if not (letter.isascii() and letter.isalpha()):
                raise self.error("\\c needs a letter", start)
            return ((ord(letter) % 32,) * 2,)
        if name in "xuU":
            return ((self.code_point(name, start),) * 2,)
        if name.isascii() and name.isalnum():
            raise self.error(f"the escape \\{name} is not supported", start)
        return ((ord(name),) * 2,)

    def code_point(self, name: str, start: int) -> int:
        if self.skip("{"):
            digits = self.until("}")
        else:
            size = {"x": 2, "u": 4, "U": 8}[name]
            digits, self.at = self.text[self.at : self.at + size], self.at + size
            digits = digits if len(digits) == size else ""
        try:
            value = int(digits, 16) if digits.isalnum() else -1
        except ValueError:
            value = -1
        if (
            self.flags.ecma and 0xD800 <= value < 0xDC00 and self.text.startswith("\\u", self.at)
        ):  # a pair of UTF-16 units
            self.at += 2
            low = self.code_point("u", start)
            if 0xDC00 <= low < 0xE000:
                return 0x10000 + ((value - 0xD800) << 10) + low - 0xDC00
            value = -1
        if not 0 <= value <= LAST_CHARACTER:
            raise self.error("an escape with wrong digits", start)
        return value

    def category(self, inverted: bool, start: int) -> Ranges:
        name = self.until("}") if self.skip("{") else self.take()
        name = name.removeprefix("General_Category=").removeprefix("gc=")
        if name.startswith("^"):
            inverted, name = not inverted, name[1:]
        if name in ("Any", "ASCII"):
            found: Ranges = EVERY if name == "Any" else ((0, 127),)
        else:
            name = LONG_NAMES.get(name, name)
            if name not in CATEGORIES:
                raise self.error(
                    f"the property {name!r} is not supported; use a general category such as L or Nd", start
                )
            found = category_of(name)
        return others(found) if inverted else found

    def bracket(self, start: int) -> Ranges:
        inverted, found, first = self.skip("^"), [], True
        while True:
            if self.at >= len(self.text):
                raise self.error("a ']' is missing", start)
            if self.skip("]"):
                if not first or self.flags.ecma:
                    break
                self.at -= 1
            first = False
            low = self.member()
            if self.text.startswith(("--", "&&", "~~"), self.at):
                raise self.error("operations between sets are not supported", start)
            if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                if len(low) != 1 or low[0][0] != low[0][1]:
                    found += [*low, (45, 45)]
                    self.at += 1
                    continue
                self.at += 1
                high = self.member()
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    raise self.error("a range in brackets is in the wrong order", start)
                low = ((low[0][0], high[0][0]),)
            found += low
        ranges = self.cased(normal(found))
        return others(ranges) if inverted else ranges

    def member(self) -> Ranges:
        """A character or set in brackets."""
        character = self.take()
        if character == "[" and self.text.startswith(":", self.at):
            raise self.error("classes of POSIX are not supported; use \\d, \\w, \\s or ranges", self.at - 1)
        return self.escape(True) if character == "\\" else ((ord(character),) * 2,)

    def cased(self, ranges: Ranges) -> Ranges:
        """With the other cases of each character where the flag says so."""
        found = normal(ranges)
        if not self.flags.ignore_case or not found:  # half a surrogate pair is no character
            return ranges
        lows, highs = (np.array(column) for column in zip(*found, strict=True))
        letters, forms = cases()
        place = np.searchsorted(lows, letters, "right") - 1
        inside = (place >= 0) & (highs[place] >= letters)
        if self.flags.ascii:
            inside &= (letters < 128) & (forms < 128)
        return normal([*ranges, *((int(c), int(c)) for c in forms[inside])])


def _after(left: Places, right: Places) -> Places:
    """One part after another; what must begin the text has nothing before it, what ends it nothing behind it."""
    if [*left] == [*right] == [(False, False)]:
        a, b = left[False, False], right[False, False]
        return {(False, False): b if a == EMPTY else a if b == EMPTY else Concat((a, b))}
    found: dict[tuple[bool, int], list[Regex]] = {}
    for (begins, ended), a in left.items():
        for (begun, ends), b in right.items():
            first = (EMPTY if matches(a, "") else NOTHING) if begun else a
            second = (EMPTY if matches(b, "") else NOTHING) if ended else b
            rest = {ended if not ends else ends if not ended else min(ended, ends): second}
            if ended == LINE and matches(b, "\n"):
                rest[True] = Union((rest.pop(True, NOTHING), Chars(((10, 10),))))
            for end, part in rest.items():
                if NOTHING not in (first, part):
                    found.setdefault((begins or begun, end), []).append(Concat((first, part)))
    return {place: _joined(parts) for place, parts in found.items()} or {(False, False): NOTHING}
