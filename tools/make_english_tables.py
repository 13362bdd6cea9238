"""Make `src/llmanac/kernels/english/classes.npz`: what the reference's English tokenization does with each character.

The words that a filter counts must be its reference's, which are spaCy's. So the classes are probed: each character is
put to the rules in the place where a class decides. What Python itself says of a character (white space, letter, line
end) is kept too, so that a filter decides alike under every Python.

    python tools/make_english_tables.py          # needs the [test] extra (spacy, datatrove)
"""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
from spacy.pipeline import Sentencizer

from llmanac.core.files import write_bytes
from llmanac.kernels.english import classes as flags
from llmanac.kernels.unicode import CODE_POINTS


def at(matches: Any, place: int) -> bool:
    return any(match.start() == place for match in matches)


def classes_of(tokenizer: Any) -> np.ndarray:
    """(0x110000,) uint32 flags."""
    out = np.zeros(CODE_POINTS, np.uint32)
    prefix, suffix = tokenizer.prefix_search, tokenizer.suffix_search
    infix, url = tokenizer.infix_finditer, tokenizer.url_match
    ends = set(Sentencizer.default_punct_chars)
    word, digit = re.compile(r"\w").match, re.compile(r"\d").match
    for number in range(CODE_POINTS):
        if 0xD800 <= number < 0xE000:
            continue
        c = chr(number)
        own = 0
        own |= (
            flags.SPACE * c.isspace() | flags.LETTER * c.isalpha() | flags.LINE_END * (len(f"a{c}b".splitlines()) > 1)
        )
        own |= flags.WORD * bool(word(c)) | flags.DIGIT * bool(digit(c))
        own |= flags.PUNCTUATION * unicodedata.category(c).startswith("P")
        own |= flags.ENDS_SENTENCE * (c in ends) | flags.SYMBOL * (c in PUNCTUATION_SET)
        own |= flags.TERMINAL * (c in TERMINAL_PUNCTUATION)
        if not c.isspace():
            own |= flags.PREFIX * (c != "+" and prefix(c) is not None)
            own |= flags.SUFFIX * (suffix(c) is not None)
            found = suffix(f"1{c}")
            own |= flags.AFTER_DIGIT * (not own & flags.SUFFIX and found is not None and found.start() == 1)
            found = suffix(f"{c}.")
            own |= flags.BEFORE_PERIOD * (found is not None and found.start() == 1)
            own |= flags.INFIX * at(infix(f"!{c}!"), 1)
            if c != ".":
                own |= flags.ALPHA * at(infix(f"a,{c}"), 1)
                before, after = at(infix(f"{c}.A"), 1), at(infix(f"a.{c}"), 1)
                quote = before and after and not own & flags.ALPHA
                own |= flags.QUOTE * quote | flags.LOWER * (before and not quote) | flags.UPPER * (after and not quote)
            own |= flags.TOP_LEVEL * (url(f"a.{c}{c}") is not None)
            own |= flags.HOST * (url(f"{c}.com") is not None)
        out[number] = own
    return out


def main() -> None:
    found = classes_of(spacy.blank("en").tokenizer)
    starts = np.flatnonzero(np.diff(found, prepend=found[:1] + 1))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, starts=starts.astype(np.uint32), values=found[starts])
    path = Path(flags.__file__).with_name(flags.TABLE)
    write_bytes(path, buffer.getvalue())
    print(f"{path}: {len(starts)} runs, {len(buffer.getvalue())} bytes")


if __name__ == "__main__":
    main()
