"""The replacement rules of SentencePiece's named normalisers, made from Python's own Unicode tables.

    nfkc          Unicode's compatibility composition, of single characters and of sequences that compose
    nmt_nfkc      the same, and: odd spaces and marks of direction become spaces, control characters go
    nfkc_cf, nmt_nfkc_cf   the same two with letters folded to lower case

The full-width tilde stays as it is in the nmt forms, since Japanese tells it from the plain one.
"""

import functools
import itertools
import sys
import unicodedata
from collections.abc import Mapping

NAMES = ("identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")
SPACES = "\t\n\f\r\u061c\u1680\u200b\u200c\u200e\u200f\u2028\u2029\u2581\ufeff\ufffd"
DROPPED = [*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]
FULL_WIDTH_TILDE = "\uff5e"


@functools.cache
def rules_of(name: str) -> dict[str, str]:
    """`{text: replacement}` of a named normaliser; empty for `identity`."""
    if name == "identity":
        return {}
    rules = _nfkc()
    if name.startswith("nmt_"):
        rules |= dict.fromkeys(SPACES, " ") | {chr(c): "" for c in DROPPED}
        del rules[FULL_WIDTH_TILDE]
    if name.endswith("_cf"):
        rules = {text: _folded(new) for text, new in rules.items()}
        for character in map(chr, range(1, sys.maxunicode + 1)):
            folded = _fold(character)
            if folded != character and character not in rules:
                rules[character] = folded
    return without_redundant(rules)


def _fold(character: str) -> str:
    """One character's simple case folding: itself where folding would make it several."""
    folded = character.casefold()
    if len(folded) > 1:
        folded = character.lower()
    return folded if len(folded) == 1 else character


def _folded(text: str) -> str:
    return "".join(map(_fold, text))


def _nfkc() -> dict[str, str]:
    rules: dict[str, str] = {}
    written: dict[str, list[str]] = {}  # one character -> the characters whose full decomposition it is
    decomposed: set[str] = set()
    for character in map(chr, range(1, sys.maxunicode + 1)):
        if "\ud800" <= character <= "\udfff":
            continue
        if not unicodedata.decomposition(character) and not "\uac00" <= character <= "\ud7a3":
            continue
        new = unicodedata.normalize("NFKC", character)
        if new != character:
            rules[character] = new
        full = unicodedata.normalize("NFKD", character)
        if len(full) == 1:
            written.setdefault(full, []).append(character)
        else:
            decomposed.add(full)
    for full in decomposed:
        composed = unicodedata.normalize("NFC", full)
        if composed == full:
            continue
        for spelling in itertools.product(*([c, *written.get(c, ())] for c in full)):
            text = "".join(spelling)
            if text != composed:
                rules[text] = composed
    return rules


def without_redundant(rules: Mapping[str, str]) -> dict[str, str]:
    """The rules without those that shorter ones imply."""
    kept = {text: new for text, new in rules.items() if len(text) == 1}
    for length in range(2, max(map(len, rules), default=0) + 1):
        longer = {
            text: new for text, new in rules.items() if len(text) == length and _replaced(kept, text, length - 1) != new
        }
        kept |= longer
    return kept


def _replaced(rules: Mapping[str, str], text: str, longest: int) -> str:
    out, at = [], 0
    while at < len(text):
        for length in range(min(longest, len(text) - at), 0, -1):
            new = rules.get(text[at : at + length])
            if new is not None:
                out.append(new)
                at += length
                break
        else:
            out.append(text[at])
            at += 1
    return "".join(out)
