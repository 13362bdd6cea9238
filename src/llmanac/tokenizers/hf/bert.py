"""BERT's own normaliser and pre-tokenizer, as Hugging Face `tokenizers` runs them.

The normaliser removes control characters and makes white space blanks, puts blanks around Chinese characters, takes
away accents (the form NFD without its nonspacing marks) and lowers case, each where the file asks for it. The
pre-tokenizer cuts at white space and makes each punctuation character a word. Which characters these are follows an
older Unicode than Python: `tools/make_unicode_tables.py` makes the tables. Devlin et al. 2019 and its code.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._added import WHITE_SPACE
from llmanac.tokenizers._normal import Placed, compose, in_form, lowered, normalized, table

# in the order of the file's keys; strip_accents follows lowercase where it is null
SWITCHES = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
CHINESE = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)  # fmt: skip


def _class(ranges: Any, below: int) -> str:
    """The inside of a character class of `re`, of the characters below a code point."""
    spans = [(first, min(last, below - 1)) for first, last in ranges if first < below]
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in spans)


def _below(text: str) -> int:
    """A bound of a text's code points. `re` is fast for ASCII and for 16 bits, and walks along longer lists."""
    if text.isascii():
        return 1 << 7
    return 1 << 16 if len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text) else 0x110000


@functools.cache
def _words(chinese: bool, below: int) -> re.Pattern[str]:
    alone = _class(table("bert_punctuation").tolist(), below) + (_class(CHINESE, below) if chinese else "")
    return re.compile(f"[^{alone}{re.escape(WHITE_SPACE)}]+|[{alone}]")


@functools.cache
def _runs(name: str, below: int) -> re.Pattern[str]:
    inside = _class(table(name).tolist(), below)
    return re.compile(f"[{inside}]+" if inside else "(?!)")


def words(text: str, chinese: bool = False) -> list[str]:
    """The words of a text; with `chinese` each Chinese character is one, as if blanks were around it."""
    return _words(chinese, _below(text)).findall(text)


def without(name: str, text: str) -> str:
    """A text without the characters of a table."""
    return _runs(name, _below(text)).sub("", text)


SPACES = re.compile(f"[{re.escape(WHITE_SPACE)}]")
HAN = re.compile(f"[{_class(CHINESE, 0x110000)}]")


class BertNormalizer:
    """The normaliser of a file's node. Raises TokenizerError for a switch that is no boolean."""

    def __init__(self, node: Mapping[str, Any], where: str) -> None:
        given = {name: node.get(name) for name in SWITCHES}
        for name, value in given.items():
            if not isinstance(value, bool) and not (value is None and name == "strip_accents"):
                raise TokenizerError(f"{where}.{name}: expected true or false, got {repr(value)[:40]}")
        self._clean, self.chinese, strip, self._lower = given.values()
        self._strip = self._lower if strip is None else strip

    def text(self, text: str) -> str:
        """The normal form alone."""
        if self._clean:
            text = SPACES.sub(" ", without("bert_removed", text))
        if self.chinese and not text.isascii():
            text = HAN.sub(r" \g<0> ", text)
        return self.bare(text, False)

    def bare(self, text: str, clean: bool = True) -> str:
        """The normal form as far as `words` needs it: white space and Chinese characters stay."""
        if clean and self._clean:
            text = without("bert_removed", text)
        if self._strip and not text.isascii():
            text = without("bert_marks", normalized("NFD", text))
        return lowered(text) if self._lower else text

    def __call__(self, text: str, _: Any = None) -> Placed:
        placed: Placed = (text, None)
        if self._clean:
            removed = _runs("bert_removed", 0x110000)
            placed = _each(text, ["" if removed.match(c) else " " if c in WHITE_SPACE else c for c in text])
        if self.chinese:
            made, places = _each(placed[0], [f" {c} " if HAN.match(c) else c for c in placed[0]])
            places[:-1][[m.end() for m in HAN.finditer(made)]] += 1  # the blank behind one begins where it ends
            placed = compose(placed, (made, places))
        if self._strip:
            marks = _runs("bert_marks", 0x110000)
            placed = compose(placed, in_form("NFD", placed[0]))
            placed = compose(placed, _each(placed[0], ["" if marks.match(c) else c for c in placed[0]]))
        return compose(placed, _each(placed[0], [lowered(c) for c in placed[0]])) if self._lower else placed


def _each(text: str, new: list[str]) -> tuple[str, np.ndarray]:
    places = np.repeat(np.arange(len(text)), [len(part) for part in new])
    return "".join(new), np.append(places, len(text)).astype(np.int64)


def split(word: str, places: np.ndarray, *_: Any) -> list[tuple[str, np.ndarray]]:
    """The words of a text, and where their characters start."""
    return [(m[0], places[m.start() : m.end() + 1]) for m in _words(False, _below(word)).finditer(word)]
