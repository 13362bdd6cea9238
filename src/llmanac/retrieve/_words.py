"""Texts as lists of words, for lexical retrieval over prose and code alike."""

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from llmanac.evaluate.english import FUNCTION
from llmanac.metrics import stem

Analyzer = Literal["code", "plain"]
# scripts that are written without spaces: Thai to Burmese, Khmer, kana, Han
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CHUNK = re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])\w)+(?:\.(?:(?![{_UNSPACED}])\w)+)*")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+")
_WORD = re.compile(r"\w+")
_ASKING = """what which who whom whose when where why how many much long often far old does did do is are was were can
could tell explain describe name call called please anyone say aren isn wasn weren don doesn didn couldn shouldn t"""


def _composed(text: str) -> str:
    """In NFKC, so that a letter has one form however it was typed; an I with a dot is an I: its lower case has two."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text).replace("\u0130", "I").replace("i\u0307", "i")


def code_words(text: str) -> list[str]:
    """Words without case (ß as ss), as Porter's stems; a dotted, underscored or camel-cased name yields itself without
    underscores, what follows each of its dots, and its parts; a text without spaces (Chinese, Japanese, Thai) the pairs
    of its letters.

    `os.path.is_dir` -> `os.path.isdir, path.isdir, os, path, isdir, is, dir`.
    """
    return [word for chunk in _CHUNK.findall(_composed(text)) for word in _words_of(chunk)]


@functools.lru_cache(maxsize=1 << 18)
def _words_of(chunk: str) -> tuple[str, ...]:
    """The words of a text that `_CHUNK` takes whole."""
    if chunk.isascii() and chunk.isalpha() and (chunk.islower() or chunk[1:].islower()):
        return (_stem(chunk.lower()),)
    if chunk[0] > "\u0dff" and re.match(f"[{_UNSPACED}]", chunk):
        return tuple(chunk[i : i + 2] for i in range(max(1, len(chunk) - 1)))
    names = [part.casefold().replace("_", "") for part in chunk.split(".")]
    out = [".".join(names[i:]) for i in range(len(names) - 1)]
    for part, name in zip(chunk.split("."), names, strict=True):
        pieces = [_stem(piece.casefold()) for piece in _PIECE.findall(part)] if part.isascii() else [_stem(name)]
        out += pieces if len(pieces) == 1 else [_stem(name), *pieces]
    return tuple(out)


def _stem(word: str) -> str:
    return stem(word) if word.isascii() and word.isalpha() else word


def plain_words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, without case (ß as ss)."""
    return _WORD.findall(_composed(text).casefold())


STOP = frozenset(code_words(" ".join([*FUNCTION, _ASKING])))


@functools.lru_cache(maxsize=4096)
def content(text: str) -> frozenset[str]:
    """The words of a text, as `code_words` has them, that are not function words."""
    return frozenset(code_words(text)) - STOP


WORDS: dict[Analyzer, Callable[[str], list[str]]] = {"code": code_words, "plain": plain_words}
