"""Classes of characters in regular expressions, and which characters are equal without regard to case."""

from __future__ import annotations

import functools

import numpy as np

from llmanac.generate.constrain._utf8 import Ranges, normal
from llmanac.kernels.unicode import in_categories

DIGITS: Ranges = ((48, 57),)
WORDS: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
SPACES: Ranges = ((9, 13), (32, 32))
ECMA_SPACES: Ranges = (
    (9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
POSIX = {
    "alpha": ((65, 90), (97, 122)), "digit": DIGITS, "alnum": ((48, 57), (65, 90), (97, 122)), "word": WORDS,
    "upper": ((65, 90),), "lower": ((97, 122),), "space": SPACES, "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "xdigit": ((48, 57), (65, 70), (97, 102)),
}  # fmt: skip
CATEGORIES = frozenset(
    [
        "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe",
        "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Co", "Cn",
    ]
)  # fmt: skip
LONG_NAMES = {
    "Letter": "L", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Mark": "M", "Number": "N", "digit": "Nd",
    "Decimal_Number": "Nd", "Punctuation": "P", "punct": "P", "Symbol": "S", "Separator": "Z", "Other": "C",
}  # fmt: skip


@functools.cache
def cases() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different characters that are equal without regard to case."""
    groups: dict[str, list[int]] = {}
    for code in range(0x1E944):
        letter = chr(code)
        folded = letter.casefold()
        if folded != letter and len(folded) == 1:  # one in a hundred
            groups.setdefault(folded, [ord(folded)]).append(code)
    pairs = [(a, b) for group in groups.values() for a in group for b in group if a != b]
    table = np.array(pairs)
    return table[:, 0], table[:, 1]


@functools.cache
def category_of(name: str) -> Ranges:
    """The characters of a general category."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], in_categories(name), [False]]).astype(np.int8)))
    return normal(zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True))
