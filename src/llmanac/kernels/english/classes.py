"""What English tokenization and the filters do with each character; `tools/make_english_tables.py` makes the table."""

import functools
from pathlib import Path

import numpy as np

from llmanac.kernels.unicode import CODE_POINTS

TABLE = "classes.npz"
SPACE = 1 << 0  # white space, as `str.isspace` has it
LETTER = 1 << 1  # `str.isalpha`
LINE_END = 1 << 2  # ends a line for `str.splitlines`
WORD, DIGIT = 1 << 3, 1 << 4  # `\w` and `\d` of a regular expression
PUNCTUATION = 1 << 5  # general category P
ENDS_SENTENCE = 1 << 6  # a word that is this character alone ends a sentence
SYMBOL = 1 << 7  # a word of nothing else does not count as one, by Gopher's rules
TERMINAL = 1 << 8  # a line that ends with it is a sentence, by FineWeb's rules
PREFIX, SUFFIX = 1 << 9, 1 << 10  # comes off the start, the end of a word
AFTER_DIGIT = 1 << 11  # comes off the end after a digit: a currency, a unit
BEFORE_PERIOD = 1 << 12  # a period after it comes off
INFIX = 1 << 13  # splits a word at any place
ALPHA, LOWER, UPPER, QUOTE = 1 << 14, 1 << 15, 1 << 16, 1 << 17  # the reference's own classes of letters and quotes
TOP_LEVEL, HOST = 1 << 18, 1 << 19  # allowed in the last part of a host's name, in the other parts


@functools.cache
def table() -> np.ndarray:
    """(0x110000,) uint32: the flags of every code point."""
    with np.load(Path(__file__).with_name(TABLE), allow_pickle=False) as data:
        starts, values = data["starts"], data["values"]
    return np.repeat(values, np.diff(starts, append=CODE_POINTS))
