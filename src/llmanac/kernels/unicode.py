"""Character classes for splitting text, fixed at the Unicode version that tiktoken and Hugging Face tokenizers use.

Python's `unicodedata` and the `regex` module follow other versions (older and newer), which would move the borders of
pieces, and so change ids, for characters that were assigned in between. `tools/make_unicode_tables.py` makes the table.
"""

import functools
from pathlib import Path

import numpy as np

CODE_POINTS = 0x110000
TABLE = "unicode_classes.npz"
CATEGORIES = (
    "Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl", "No",
    "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs",
)  # fmt: skip
SPACE_FLAG, DIGIT_FLAG, CATEGORY_MASK = 64, 128, 63

# What the split kernels tell apart. Each code point has exactly one of these.
OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 4
# Two more values that only byte tables use: the first byte of a longer character, and the end of the text.
MULTIBYTE, END = 8, 16


@functools.cache
def table() -> np.ndarray:
    """(0x110000,) uint8: category index, plus `SPACE_FLAG` for White_Space, plus `DIGIT_FLAG` for Rust's numerics."""
    with np.load(Path(__file__).with_name(TABLE), allow_pickle=False) as data:
        starts, values = data["starts"], data["values"]
    return np.repeat(values, np.diff(starts, append=CODE_POINTS))


def in_categories(prefix: str) -> np.ndarray:
    """(0x110000,) bool: whether the general category starts with `prefix` (`L`, `Lu`, `N`, ...)."""
    chosen = np.array([category.startswith(prefix) for category in CATEGORIES])
    return chosen[table() & CATEGORY_MASK]


@functools.cache
def split_classes(isolate_digits: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """`(by_byte (256,), by_code_point (0x110000,))` uint8 classes for the split kernels.

    With `isolate_digits` every numeric ends the text on its left and starts it anew on its right, which is what a
    `Digits(individual_digits=True)` step before the pattern does.
    """
    classes = np.zeros(CODE_POINTS, np.uint8)
    classes[in_categories("L")] = LETTER
    classes[in_categories("N")] = NUMBER
    classes[(table() & SPACE_FLAG) != 0] = SPACE
    if isolate_digits:
        classes[(table() & DIGIT_FLAG) != 0] = END
    by_byte = np.full(256, MULTIBYTE, np.uint8)
    by_byte[:128] = classes[:128]
    by_byte[255] = END
    return by_byte, classes


@functools.cache
def newer_characters() -> dict[int, str]:
    """Characters that the installed `regex` knows and our Unicode version does not, each mapped to a noncharacter.

    Translating a text with it makes `regex` see those characters as unassigned, so that a pattern without a kernel
    splits as it would in the pinned version. The length in characters stays the same.
    """
    import regex

    unassigned = np.flatnonzero((table() & CATEGORY_MASK) == CATEGORIES.index("Cn"))
    text = unassigned.astype("<u4").tobytes().decode("utf-32-le")
    return {ord(c): "\U0001fffe" for c in regex.findall(r"[^\p{Cn}]", text)}
