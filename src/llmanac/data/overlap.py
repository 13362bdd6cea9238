"""Which n-grams of evaluation items occur in a text: the index of the items, and the search through a text.

Words are compared in Unicode NFKC and case-folded, as runs of letters, marks and numbers; punctuation, symbols and
white space only separate them. In scripts that write no spaces (Han, kana, Thai, Lao, Khmer, Burmese) every character
is a word of its own.

An item has one or more fields. A field of `n` words or more is looked for by all its n-grams. An item whose fields are
all shorter is looked for by its longest field, in full, if that has `shortest` words or more; a shorter one would match
by chance and is never found. Hits are found by a 64-bit hash and then compared word by word, so none is a collision.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmanac.core.errors import DataError
from llmanac.data.evaluation_items import Item
from llmanac.kernels import unicode
from llmanac.kernels.dedup import minhash
from llmanac.kernels.dedup import overlap as ngram_overlap
from llmanac.kernels.dedup.units import plain_units, with_bytes

_RUN = re.compile(r"\s+|\S+")
PIECE = 1 << 16  # units of a text looked up at a time
# Blocks of scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    (0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100), (0x31F0, 0x3200), (0x3400, 0x4DC0),
    (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000),
)  # fmt: skip


@functools.cache
def word_tables() -> tuple[np.ndarray, np.ndarray]:
    """`(by_byte, by_code_point)`: what each character of a prepared text is to the splitter."""
    classes = np.full(unicode.CODE_POINTS, minhash.APART, np.uint8)
    for category in ("L", "M", "N"):
        classes[unicode.in_categories(category)] = minhash.JOINED
    for start, stop in _UNSPACED:
        block = classes[start:stop]
        block[block == minhash.JOINED] = minhash.ALONE
    return with_bytes(classes)


def prepared(text: str) -> str:
    """The text in the form in which words are compared."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> list[str]:
    """The words that are compared, the plain way."""
    return plain_units(prepared(text), word_tables()[1])


def _encoded(text: str) -> np.ndarray:
    return np.frombuffer(prepared(text).encode("utf-8", "surrogatepass"), np.uint8)


def _units(buffer: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`(hashes (n,), spans (n, 2))` of a prepared text's words, in pieces."""
    at = 0
    while at < len(buffer):
        size = min(PIECE, len(buffer) - at)
        hashes, spans = np.empty(size, np.uint64), np.empty((size, 2), np.int64)
        at, count = minhash.units(buffer, at, len(buffer), *word_tables(), hashes, spans)
        yield hashes[:count], spans[:count]


class NgramHit(NamedTuple):
    """An n-gram of the items in a text: its first word's number, its words, its bytes in the prepared text, and the
    rows of the index that have it."""

    word: int
    width: int
    start: int
    stop: int
    gram: int
    rows: np.ndarray


@dataclass(frozen=True)
class Looked:
    """How an item is looked for: `by` is "grams", "whole" or "too short"; `grams` is how many rows it has."""

    by: str
    grams: int


class ItemIndex:
    """The n-grams of evaluation items. `row_items` says which item each row (an n-gram where it occurs) belongs to.

    Memory (`nbytes`): about 25 bytes a word of the items and 30 bytes an n-gram.
    """

    def __init__(self, items: Sequence[Item], n: int = 13, shortest: int = 4) -> None:
        if not 1 <= shortest <= n <= 1000:
            raise DataError(f"n: {n} and shortest: {shortest} are not 1 <= shortest <= n <= 1000")
        self.items, self.n, self.shortest = items, n, shortest
        self.looked: list[Looked] = []
        texts, spans, hashes, starts, widths, owners = [], [], [], [], [], []
        bytes_before = words_before = 0
        for number, item in enumerate(items):
            fields = [_field(text) for text in item.fields]
            chosen = [field for field in fields if len(field[1]) >= n]
            by = "grams"
            if not chosen:
                longest = max(fields, key=lambda field: len(field[1]), default=None)
                chosen = [longest] if longest is not None and len(longest[1]) >= shortest else []
                by = "whole" if chosen else "too short"
            rows = 0
            for buffer, units, places in chosen:
                width = min(n, len(units))
                found = ngram_overlap.gram_hashes(units, width)
                texts.append(buffer.tobytes())
                spans.append(places + bytes_before)
                hashes.append(found)
                starts.append(np.arange(words_before, words_before + len(found)))
                widths.append(np.full(len(found), width, np.int32))
                owners.append(np.full(len(found), number, np.int32))
                bytes_before += len(buffer)
                words_before += len(units)
                rows += len(found)
            self.looked.append(Looked(by, rows))
        self._text = b"".join(texts)
        self._spans = _joined(spans, np.int64).reshape(-1, 2)
        every = _joined(hashes, np.uint64)
        order = np.argsort(every, kind="stable")
        self.row_items = _joined(owners, np.int32)[order]
        self._row_words = _joined(starts, np.int64)[order]
        self._row_widths = _joined(widths, np.int32)[order]
        self._keys, first = np.unique(every[order], return_index=True)
        self._row_starts = np.append(first, len(every))
        self._slots, self._filter = ngram_overlap.make_table(self._keys)
        self._widths = np.unique(self._row_widths).astype(np.int64)

    @property
    def grams(self) -> int:
        """How many different n-grams there are (by their hash)."""
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds."""
        rows = (self._spans, self.row_items, self._row_words, self._row_widths, self._keys, self._row_starts)
        return len(self._text) + sum(array.nbytes for array in (*rows, self._slots, self._filter))

    def items_of(self, grams: np.ndarray) -> list[int]:
        """The numbers of the items that have one of these n-grams, in order.

        Two different n-grams of one hash (probability 2^-64 a pair) would bring each other's items along; whether a
        text has them comes from `find`, which compares words.
        """
        rows = [self.row_items[self._row_starts[g] : self._row_starts[g + 1]] for g in grams.tolist()]
        return np.unique(np.concatenate(rows)).tolist() if rows else []

    def _row_text(self, row: int) -> list[bytes]:
        start = int(self._row_words[row])
        return [self._text[a:b] for a, b in self._spans[start : start + int(self._row_widths[row])].tolist()]

    def find(self, text: str) -> Iterator[NgramHit]:
        """Every n-gram of the items in a text, in order of where it ends, each compared word by word."""
        buffer = _encoded(text)
        keep = int(self._widths[-1]) - 1 if len(self._widths) else 0
        held, places = np.empty(0, np.uint64), np.empty((0, 2), np.int64)
        before = 0
        table = self._slots, self._filter, self._keys
        known: dict[int, tuple[list[bytes], np.ndarray]] = {}
        for new_units, new_places in _units(buffer):
            fresh = len(held)
            held, places = np.concatenate([held, new_units]), np.concatenate([places, new_places])
            for word, width, key in ngram_overlap.find_grams(held, fresh, self._widths, *table).tolist():
                spans = places[word : word + width].tolist()
                own = [buffer[a:b].tobytes() for a, b in spans]
                if key not in known or known[key][0] != own:
                    known[key] = own, self._rows_with(key, own)
                if len(known[key][1]):
                    yield NgramHit(before + word, width, spans[0][0], spans[-1][1], key, known[key][1])
            cut = max(0, len(held) - keep)
            held, places, before = held[cut:], places[cut:], before + cut

    def _rows_with(self, key: int, words: list[bytes]) -> np.ndarray:
        rows = range(int(self._row_starts[key]), int(self._row_starts[key + 1]))
        return np.array([row for row in rows if self._row_text(row) == words], np.int64)


def _field(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    buffer = _encoded(text)
    pieces = list(_units(buffer))
    return buffer, _joined([h for h, _ in pieces], np.uint64), _joined([s for _, s in pieces], np.int64).reshape(-1, 2)


def _joined(parts: Iterable[np.ndarray], dtype: type) -> np.ndarray:
    parts = list(parts)
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)


def original_ranges(text: str, ranges: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Ranges of bytes of the prepared text, in order, as ranges of characters of the text itself.

    Where preparing a run between white space does not go character by character (accents that combine), a range that
    touches the run takes all of it.
    """
    if text.isascii():
        return [(start, stop) for start, stop in ranges]
    wanted = sorted({at for start, stop in ranges for at in (start, stop - 1)}, reverse=True)
    places: dict[int, tuple[int, int]] = {}
    done = 0  # bytes of the prepared text that the runs so far have
    for run in _RUN.finditer(text):
        made = _size(run[0])
        while wanted and wanted[-1] < done + made:
            at = wanted.pop()
            places[at] = _place(run, at - done, made)
        done += made
    if wanted or done != _size(text):  # the runs do not add up to the whole
        return [(0, len(text)) for _ in ranges]
    return [(places[start][0], places[stop - 1][1]) for start, stop in ranges]


def _size(text: str) -> int:
    return len(prepared(text).encode("utf-8", "surrogatepass"))


def _place(run: re.Match[str], at: int, made: int) -> tuple[int, int]:
    """The character of a run that has byte `at` of the prepared run, or the whole run where there is no telling."""
    sizes = [_size(character) for character in run[0]]
    if sum(sizes) != made or "".join(map(prepared, run[0])) != prepared(run[0]):
        return run.start(), run.end()
    number = int(np.searchsorted(np.cumsum(sizes), at, "right"))
    return run.start() + number, run.start() + number + 1
