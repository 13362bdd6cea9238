"""Texts as lists of words, for lexical retrieval over prose and code alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

Analyzer = Literal["code", "plain"]
_CHUNK = re.compile(r"\w+(?:\.\w+)*")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+")
_WORD = re.compile(r"\w+")


def _composed(text: str) -> str:
    """In NFKC, so that a letter has one form however it was typed; an I with a dot is an I: its lower case has two."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text).replace("\u0130", "I").replace("i\u0307", "i")


def code_words(text: str) -> list[str]:
    """Words without case (ß as ss); a dotted, underscored or camel-cased name yields itself and its parts.

    `shutil.copyTree` -> `shutil.copytree, shutil, copytree, copy, tree`. A plural or third-person -s is removed, so
    that `raises` meets `raise`.
    """
    out: list[str] = []
    for chunk in _CHUNK.findall(_composed(text)):
        if chunk.isalpha() and (chunk.islower() or chunk[1:].islower()):
            out.append(_stem(chunk.casefold()))
            continue
        if "." in chunk:
            out.append(chunk.casefold())
        for part in chunk.split("."):
            pieces = [_stem(piece.casefold()) for piece in _PIECE.findall(part)]
            if pieces != [part.casefold()]:
                out.append(part.casefold())
            if len(pieces) > 1 or pieces == [part.casefold()]:
                out += pieces
    return out


def _stem(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def plain_words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, without case (ß as ss)."""
    return _WORD.findall(_composed(text).casefold())


WORDS: dict[Analyzer, Callable[[str], list[str]]] = {"code": code_words, "plain": plain_words}
