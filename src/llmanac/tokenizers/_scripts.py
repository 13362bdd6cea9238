"""A character's script, by Unicode's property Script as the `regex` library has it.

`regex` tells whether a character is of a script that is named, not which scripts there are: their names are those that
Unicode's names of characters begin with.
"""

import functools
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import regex

FREQUENT = ("Common", "Inherited", "Latin", "Han", "Hiragana", "Katakana")


@functools.cache
def script_of(character: str) -> str:
    """The script of a character; "Common" where Unicode gives it none."""
    for name in (*FREQUENT, *_beginnings(character), *_all()):
        pattern = _pattern(name)
        if pattern is not None and pattern.match(character):
            return name
    return "Common"


def _beginnings(character: str) -> Iterator[str]:
    words = unicodedata.name(character, "").replace("-", " ").split(" ")[:3]
    for count in range(1, len(words) + 1):
        yield "_".join(words[:count])


@functools.cache
def _pattern(name: str) -> Any:
    """What matches a character of a script; None for what is no script's name."""
    if not name.replace("_", "").isalpha():
        return None
    try:
        return regex.compile(rf"\p{{Script={name}}}")
    except (regex.error, OverflowError, ValueError):  # INF is read as a number
        return None


@functools.cache
def _all() -> tuple[str, ...]:
    found = {name for code in range(sys.maxunicode + 1) for name in _beginnings(chr(code))}
    return tuple(sorted(name for name in found if _pattern(name) is not None))
