"""Normalisation forms, marks and lower case as the normalisers of Hugging Face `tokenizers` know them.

They follow an older Unicode than Python for the forms and for what is a mark, and a newer one for lower case. What they
know otherwise is in a table that `tools/make_unicode_tables.py` makes: a character that they do not know stays as it
is, and nothing composes with it.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
TABLE = "unicode_normal.npz"


@functools.cache
def table(name: str) -> np.ndarray:
    with np.load(Path(__file__).with_name(TABLE), allow_pickle=False) as data:
        found: np.ndarray = data[name]
    return found


@functools.cache
def marks() -> frozenset[str]:
    """The characters that `StripAccents` takes away."""
    return frozenset(map(chr, table("marks").tolist()))


@functools.cache
def unknown() -> re.Pattern[str]:
    """What finds a character that no form changes there, and that Python would change or reorder."""
    return re.compile(f"[{''.join(map(chr, table('unknown').tolist()))}]")


@functools.cache
def _is_unknown() -> np.ndarray:
    return _flags(table("unknown"))


def _flags(codes: Sequence[int] | np.ndarray) -> np.ndarray:
    """(0x110000,) bool of some code points."""
    flags = np.zeros(0x110000, np.bool_)
    flags[codes] = True
    return flags


def _holds(text: str, flags: np.ndarray) -> bool:
    """Whether a text has one of these characters; many times as fast as a class of a regex beyond 16 bits."""
    return bool(flags[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)].any())


@functools.cache
def _lower() -> dict[int, str]:
    found: dict[int, str] = {}
    for code, new in table("lower").tolist():
        found[code] = found.get(code, "") + chr(new)
    return found


@functools.cache
def _lowered_otherwise() -> np.ndarray:
    """The characters that Python lowers otherwise; for a capital sigma it looks at what is around it."""
    every, known = map(chr, range(0x110000)), _lower()
    return _flags([0x3A3, *(code for code, c in enumerate(every) if c.lower() != known.get(code, c))])


def lowered(text: str) -> str:
    """A text in lower case, each character by itself."""
    if text.isascii() or not _holds(text, _lowered_otherwise()):
        return text.lower()
    return text.translate(_lower())


def is_known(text: str) -> bool:
    """Whether Python normalises a text as `tokenizers` does."""
    return text.isascii() or not _holds(text, _is_unknown())


def normalized(form: Form, text: str) -> str:
    """A text in a normalisation form."""
    if is_known(text):
        return unicodedata.normalize(form, text)
    out, done = [], 0
    for match in unknown().finditer(text):
        out += [unicodedata.normalize(form, text[done : match.start()]), match[0]]
        done = match.end()
    return "".join([*out, unicodedata.normalize(form, text[done:])])
