"""What the elements of HTML, and the words in class names, say about the text inside (`_tags.toml` has both)."""

import functools
import itertools
import re
from pathlib import Path

from llmanac.core.files import read_toml


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


_TABLE = {name: words(text) for name, text in read_toml(Path(__file__).with_name("_tags.toml")).items()}
DROPPED = _TABLE["dropped"]
BLOCKS = _TABLE["blocks"]
ASIDE = _TABLE["aside"]
LINES = _TABLE["lines"]
HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
WRAPPERS = _TABLE["wrappers"]
STRUCTURE = _TABLE["structure"]
ENCLOSED = _TABLE["enclosed"]
AROUND = _TABLE["around"]
OTHERS = _TABLE["others"]
AROUND_WHOLE = _TABLE["around_whole"]
AROUND_PAIRS = _TABLE["around_pairs"]
_LAYOUT_BEFORE = _TABLE["layout_before"]
_LAYOUT_AFTER = _TABLE["layout_after"]
STATED = _TABLE["stated"]
INLINE = _TABLE["inline"]
_WORDS = re.compile(r"(?<![0-9a-z])[a-z]+|(?<![0-9])(?:[A-Z][a-z]*|[A-Z]+(?![a-z]))")


def around(names: str) -> int:
    """Whether class names or an id say that an element belongs to the site around the text.

    Returns:
        0 if none does, 1 if one does, 2 if one says that others write there or that it is about other pages.
    """
    return _around(names[:2000])


@functools.lru_cache(20_000)
def _around(names: str) -> int:
    return max(map(_says_around, names.split()[:60]), default=0)


def _says_around(name: str) -> int:
    """What one class name or id says."""
    parts = [word.lower() for word in _WORDS.findall(name)]
    found = int("".join(parts) in AROUND_WHOLE or any(f"{a}-{b}" in AROUND_PAIRS for a, b in itertools.pairwise(parts)))
    for at, word in enumerate(parts):
        if word in AROUND or word in OTHERS:
            before, after = parts[at - 1] if at else "", parts[at + 1] if at + 1 < len(parts) else ""
            if before not in _LAYOUT_BEFORE and after not in _LAYOUT_AFTER and "embed" not in parts:
                found = max(found, 1 + (word in OTHERS))
    return found
