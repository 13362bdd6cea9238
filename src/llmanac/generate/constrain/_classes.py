"""Classes of characters in regular expressions, and which characters are equal without regard to case."""

from __future__ import annotations

import functools

import numpy as np

from llmanac.generate.constrain._utf8 import Ranges, normal
from llmanac.generate.constrain.expressions import LAST_CHARACTER
from llmanac.kernels.unicode import in_categories

ASCII: dict[str, Ranges] = {
    "d": ((48, 57),), "w": ((48, 57), (65, 90), (95, 95), (97, 122)), "s": ((9, 13), (32, 32)),
}  # fmt: skip
ECMA: dict[str, Ranges] = {**ASCII, "s": (
    (9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)}  # fmt: skip
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
    """Pairs of different characters that are equal without regard to case, as Python's `re` has them."""
    groups: dict[str, list[int]] = {}
    for code in range(0x1E944):
        letter = chr(code)
        lower = letter if 0xD800 <= code < 0xE000 else letter.lower()[0]
        if lower != letter or letter.upper() != letter:  # one in fifty
            groups.setdefault(lower.upper(), []).append(code)
    pairs = [(a, b) for group in groups.values() for a in group for b in group if a != b]
    table = np.array(pairs)
    return table[:, 0], table[:, 1]


def _ranges(inside: np.ndarray) -> Ranges:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return normal(zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True))


@functools.cache
def category_of(name: str) -> Ranges:
    """The characters of a general category."""
    return _ranges(in_categories(name))


@functools.cache
def unicode_classes() -> dict[str, Ranges]:
    r"""What `\d`, `\w` and `\s` are in the `re` of this Python, whose Unicode may be older than ours."""
    every = list(map(chr, range(LAST_CHARACTER + 1)))
    tests = {"d": str.isdecimal, "w": lambda c: c.isalnum() or c == "_", "s": str.isspace}
    return {name: _ranges(np.fromiter(map(test, every), bool, len(every))) for name, test in tests.items()}
