"""What happens to a text before it is split: lone surrogates, NFC, and where each character came from.

Normalisation forms, marks and lower case as the normalisers of Hugging Face `tokenizers` know them.

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


SURROGATE = re.compile("[\ud800-\udfff]")
PAIR_OR_LONE = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")

Placed = tuple[str, np.ndarray | None]


def replace_surrogates(text: str) -> Placed:
    """Join surrogate pairs and replace lone ones by U+FFFD, since UTF-8 has no form for them (tiktoken does the same).

    Returns the text, and (len + 1,) int64 where each of its characters starts in the old one (None: nothing moved).
    """
    if text.isascii():
        return text, None
    try:
        text.encode("utf-8")  # ten times as fast as a search
        return text, None
    except UnicodeEncodeError:
        pass
    pieces, places, done = [], [], 0
    for match in PAIR_OR_LONE.finditer(text):
        start, stop = match.span()
        pair = stop - start == 2
        pieces += [text[done:start], match[0].encode("utf-16", "surrogatepass").decode("utf-16") if pair else "\ufffd"]
        places += [*range(done, start), start]
        done = stop
    pieces.append(text[done:])
    places += [*range(done, len(text) + 1)]
    return "".join(pieces), np.array(places, np.int64)


def nfc(text: str) -> Placed:
    """The text in Normalization Form C, and where each of its characters starts in the old one."""
    return in_form("NFC", text)


def in_form(form: Form, text: str) -> Placed:
    """The text in a normalisation form, and where each of its characters starts in the old one (None: unchanged).

    A stretch that changes is placed as one: all its characters start at its first, and the next begins after its last.
    """
    if not is_known(text):
        return _around_unknown(form, text)
    if unicodedata.is_normalized(form, text):
        return text, None
    pieces: list[str] = []
    places: list[int] = []
    start = 0
    for at in range(1, len(text) + 1):
        if at < len(text) and not _starts_anew(form, text[at]):
            continue
        piece = unicodedata.normalize(form, text[start:at])
        if piece == text[start:at]:
            places += range(start, at)
        else:
            places += [start] * len(piece)
        pieces.append(piece)
        start = at
    return "".join(pieces), np.array([*places, len(text)], np.int64)


def _around_unknown(form: Form, text: str) -> Placed:
    pieces: list[str] = []
    places: list[np.ndarray] = []
    done = 0
    for start, stop in [*(match.span() for match in unknown().finditer(text)), (len(text), len(text))]:
        clean, moved = in_form(form, text[done:start])
        pieces += [clean, text[start:stop]]
        places += [(np.arange(len(clean)) if moved is None else moved[:-1]) + done, np.arange(start, stop)]
        done = stop
    return "".join(pieces), np.concatenate([*places, [len(text)]]).astype(np.int64)


def _starts_anew(form: Form, character: str) -> bool:
    """Whether nothing before a character can compose or reorder with it."""
    if character < "\u0300" and form in ("NFC", "NFD"):
        return True
    if unicodedata.combining(character) or not unicodedata.is_normalized("NFKD" if "K" in form else "NFC", character):
        return False
    # Vowels and finals of Hangul, and a few other marks of class 0, compose with the character before them.
    return not ("\u1160" <= character <= "\u11ff") and unicodedata.category(character)[0] != "M"


def compose(first: Placed, second: Placed) -> Placed:
    """Two steps as one: `second` was made from `first`'s text."""
    if first[1] is None or second[1] is None:
        return second[0], second[1] if first[1] is None else first[1]
    return second[0], first[1][second[1]]
