"""SentencePiece's normaliser: a compiled map of replacements, what happens to spaces, strings that stay.

The compiled map of a file is `size of the trie in bytes (4 bytes), the trie, replacement strings each ended by NUL`;
the trie's value is where a key's replacement starts. At each place of a text the longest key wins. A map from a file
is checked completely before it is used: no unit may lead outside, in a circle, or to a replacement that is not text.
"""

import functools
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.kernels.sentencepiece import normalize as unigram_normalize
from llmanac.kernels.sentencepiece import trie as unigram_trie
from llmanac.kernels.text import PADDING, pack
from llmanac.tokenizers._pieces import SPACE, NormalizerRules

LARGEST_TRIE = 1 << 21  # units; the library's own maps have 50,000
LONGEST_KEY, LONGEST_REPLACEMENT = 256, 1024  # bytes
NOTHING = np.empty(0, np.uint32)
NO_BYTES = np.empty(0, np.uint8)
WRONG = {
    unigram_trie.CYCLE: "its trie leads in a circle",
    unigram_trie.TOO_DEEP: f"its trie has a key of more than {LONGEST_KEY} bytes",
    unigram_trie.OUTSIDE: "its trie leads outside the map",
}


def read_charsmap(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """`(trie units, replacement bytes)` of a compiled map.

    Raises:
        TokenizerError: one sentence that says what is broken in it.
    """
    if not data:
        return NOTHING, NO_BYTES
    size = struct.unpack("<I", data[:4])[0] if len(data) >= 4 else len(data)
    if size >= len(data) - 3 or size % 4 or size == 0:
        raise TokenizerError(f"precompiled_charsmap: claims a trie of {size} bytes in a map of {len(data)}")
    if size // 4 > LARGEST_TRIE:
        raise TokenizerError(
            f"precompiled_charsmap: a trie of {size // 4} units is larger than any known ({LARGEST_TRIE})"
        )
    units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.uint32)
    blob = np.frombuffer(data, np.uint8, len(data) - 4 - size, 4 + size).copy()
    values = np.empty(len(units), np.int64)
    wrong, found = unigram_trie.check(units, LONGEST_KEY, values)
    if wrong:
        raise TokenizerError(f"precompiled_charsmap: {WRONG[wrong]}")
    _check_replacements(blob, np.unique(values[:found]))
    return units, blob


def _check_replacements(blob: np.ndarray, starts: np.ndarray) -> None:
    """Every replacement must be inside the map, end, be short and be UTF-8; it may be the end of a longer one."""
    ends = np.flatnonzero(blob == 0)
    if len(starts) and (not len(ends) or starts[-1] > ends[-1]):
        raise TokenizerError(f"precompiled_charsmap: a replacement starts at {int(starts[-1])}, outside the map's text")
    stops = ends[np.searchsorted(ends, starts)]
    longest = int((stops - starts).max(initial=0))
    if longest > LONGEST_REPLACEMENT:
        raise TokenizerError(
            f"precompiled_charsmap: a replacement of {longest} bytes is longer than {LONGEST_REPLACEMENT}"
        )
    data = blob.tobytes()
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        try:
            data[start:stop].decode("utf-8")
        except UnicodeDecodeError:
            raise TokenizerError(f"precompiled_charsmap: the replacement at {start} is not UTF-8") from None


def compile_charsmap(rules: Mapping[str, str]) -> bytes:
    """The compiled map of `{text: replacement}`; empty for no rules. Keys hold no NUL and are not empty."""
    if not rules:
        return b""
    places: dict[str, int] = {}
    blob = bytearray()
    for replacement in sorted(set(rules.values())):
        places[replacement] = len(blob)
        blob += replacement.encode("utf-8") + b"\0"
    keys = list(rules)
    values = [places[rules[key]] for key in keys]
    units = unigram_trie.trie_of([key.encode("utf-8") for key in keys], values, share=True)
    trie = units.astype("<u4").tobytes()
    return struct.pack("<I", len(trie)) + trie + bytes(blob)


class SentencePieceNormalizer:
    """Normalises texts into packed buffers for the kernels.

    Args:
        rules: the file's rules.
        suffix: whether the added space goes to the end of a text.
        kept: strings that no rule may change (user-defined symbols), as UTF-8 text.

    Raises:
        TokenizerError: the compiled map is broken.
    """

    def __init__(self, rules: NormalizerRules, *, suffix: bool = False, kept: Sequence[str] = ()) -> None:
        self.rules, self.suffix = rules, suffix
        self.units, self.blob = read_charsmap(rules.charsmap)
        self.kept = unigram_trie.trie_of([text.encode() for text in kept], [0] * len(kept)) if kept else NOTHING
        self.mode = (
            unigram_normalize.ESCAPE * rules.escape_whitespaces + unigram_normalize.PREFIX * rules.add_dummy_prefix
        )
        self.mode += unigram_normalize.SUFFIX * suffix + unigram_normalize.SQUEEZE * rules.remove_extra_whitespaces
        self._bare = not (len(self.units) or len(self.kept) or rules.remove_extra_whitespaces)

    @functools.cached_property
    def plain(self) -> np.ndarray:
        """(256,) uint8: what the kernel may do with a byte without a look at the rules."""
        plain = np.full(256, unigram_normalize.COPIED, np.uint8)
        plain[0x20], plain[0xE2], plain[0xFF] = unigram_normalize.SPACE, 0, 0  # a U+2581 starts with 0xE2
        for units in (self.units, self.kept):
            for byte in range(256):
                if len(units) and unigram_trie.child(units, 0, byte) >= 0:
                    plain[byte] = unigram_normalize.BY_PAIR if byte < 0x80 else unigram_normalize.LOOKED_UP
        return plain

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """(65536,) uint8: whether the first of two bytes is copied, where it begins a rule only with some others."""
        pairs = np.full((256, 256), unigram_normalize.COPIED, np.uint8)
        for units in (self.units, self.kept):
            for byte in range(0x80):
                node = unigram_trie.child(units, 0, byte) if len(units) else -1
                if node < 0:
                    continue
                if unigram_trie.value_of(units, node) >= 0:
                    pairs[byte] = unigram_normalize.LOOKED_UP
                found = [other for other in range(256) if unigram_trie.child(units, node, other) >= 0]
                pairs[byte, found] = unigram_normalize.LOOKED_UP
        pairs[0x20] = unigram_normalize.LOOKED_UP
        return pairs.reshape(-1)

    def pack(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """`(buffer, bytes in use)`: the normalised texts, each ended by 0xFF. No text may hold a surrogate."""
        if self._bare:  # only spaces change, which Python does faster
            return pack([self._spaced(text) for text in texts])
        out, filled, _ = self._run([text.encode("utf-8") for text in texts], False)
        return out, filled

    def _spaced(self, text: str) -> bytes:
        if self.rules.escape_whitespaces and not text.isascii() and SPACE in text:
            text = text.replace(SPACE, " ")
        if self.rules.add_dummy_prefix and text:
            text = text + " " if self.suffix else " " + text
        return text.encode("utf-8")

    def placed(self, text: str) -> tuple[np.ndarray, int, np.ndarray]:
        """As `pack`, of one text, and (used,) int64 the byte of the text that each byte came from."""
        return self._run([text.encode("utf-8")], True)

    def _run(self, texts: Sequence[bytes], placed: bool) -> tuple[np.ndarray, int, np.ndarray]:
        buffer, used = pack(texts)
        out, filled, where = unigram_normalize.normalize(
            buffer, used, self.units, self.blob, self.kept, self.plain, self.pairs, self.mode, placed
        )
        if len(out) < filled + PADDING:  # the kernels read ahead
            out = np.concatenate([out[:filled], np.zeros(PADDING, np.uint8)])
        return out, int(filled), where

    def text(self, text: str) -> str:
        """The normal form of one text, spaces as spaces."""
        buffer, used = self.pack([text])
        return buffer[: used - 1].tobytes().decode("utf-8", "replace")
