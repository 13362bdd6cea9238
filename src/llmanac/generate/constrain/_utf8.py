"""Characters as bytes: the automaton of the UTF-8 forms of a set of characters.

Classes of characters in regular expressions, and which characters are equal without regard to case.
"""

import functools
from collections.abc import Iterable

import numpy as np

from llmanac.generate.constrain.expressions import LAST_CHARACTER
from llmanac.kernels.unicode import in_categories

Ranges = tuple[tuple[int, int], ...]
Sequences = tuple[tuple[tuple[int, int], ...], ...]  # each a range for each byte
PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, LAST_CHARACTER))
EVERY: Ranges = ((0, 0xD7FF), (0xE000, LAST_CHARACTER))


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, apart from each other, without surrogates."""
    cut = []
    for low, high in ranges:
        cut += [(low, min(high, 0xD7FF)), (max(low, 0xE000), min(high, LAST_CHARACTER))]
    out: list[tuple[int, int]] = []
    for low, high in sorted((a, b) for a, b in cut if a <= b):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def others(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Every other character."""
    out, at = [], 0
    for low, high in normal(ranges):
        if low > at:
            out.append((at, low - 1))
        at = high + 1
    return normal([*out, (at, LAST_CHARACTER)])


PLAIN_PARTS = normal(PLAIN)


def _sequences(low: int, high: int) -> list[tuple[tuple[int, int], ...]]:
    for last in (0x7F, 0x7FF, 0xFFFF):
        if low <= last < high:
            return [*_sequences(low, last), *_sequences(last + 1, high)]
    if high < 0x80:
        return [((low, high),)]
    for shift in (6, 12, 18):  # both ends of all but the first bytes are to be complete
        mask = (1 << shift) - 1
        if low >> shift != high >> shift:
            if low & mask:
                return [*_sequences(low, low | mask), *_sequences((low | mask) + 1, high)]
            if high & mask != mask:
                return [*_sequences(low, (high & ~mask) - 1), *_sequences(high & ~mask, high)]
    return [tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))]


Part = tuple[int, int, int, int]  # from state, lowest byte, highest byte, to state


@functools.lru_cache(maxsize=512)
def byte_moves(ranges: Ranges) -> tuple[int, tuple[Part, ...], bool]:
    """The number of states and the moves of the automaton of one of these characters, from state 0 to state 1.

    Last, whether all plain characters are among them: those that a JSON string has without an escape.
    """
    ranges = normal(ranges)
    found: dict[Sequences, int] = {((),): 1}
    moves: list[Part] = []

    def state(rest: Sequences, number: int) -> None:
        groups: dict[tuple[int, int], list[tuple[tuple[int, int], ...]]] = {}
        for sequence in rest:
            groups.setdefault(sequence[0], []).append(sequence[1:])
        for (low, high), tails in groups.items():
            key = tuple(tails)
            new = key not in found
            if new:
                found[key] = len(found) + 1
            moves.append((number, low, high, found[key]))
            if new:
                state(key, found[key])

    state(tuple(s for low, high in ranges for s in _sequences(low, high)), 0)
    plain = all(any(a <= low and high <= b for a, b in ranges) for low, high in PLAIN_PARTS)
    return len(found) + 1, tuple(moves), plain


@functools.cache
def plain_automaton() -> np.ndarray:
    """(states, 256) int32: the bytes of a plain character, from state 0 to state 0; -1 where there is no move.

    States 1, 2, ... are in the order of the bytes that remain, fewest first.
    """
    count, moves, _ = byte_moves(PLAIN_PARTS)
    remaining = [0] * count
    for _ in range(3):
        for start, _low, _high, end in moves:
            remaining[start] = max(remaining[start], remaining[end] + 1)
    order = sorted(range(2, count), key=lambda state: remaining[state])
    number = {0: 0, 1: 0} | {state: place for place, state in enumerate(order, 1)}
    table = np.full((count - 1, 256), -1, np.int32)
    for start, low, high, end in moves:
        table[number[start], low : high + 1] = number[end]
    return table


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
