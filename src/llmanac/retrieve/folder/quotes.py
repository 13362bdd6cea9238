"""Sentences of passages, and orders to a model among them."""

import re
from dataclasses import dataclass

from llmanac.evaluate.english import FUNCTION
from llmanac.retrieve.folder.index import Passage

# orders to a reader that is a model, which a document may hold to change its answers
ORDERS = re.compile(
    r"(?is)\b(ignore|disregard|forget|override)\b.{0,40}\b(instructions?|prompts?|rules|directions|above|previous)\b"
    r"|\byou\s+(are\s+now|must\s+now|must\s+(only\s+)?(answer|reply|respond|say))\b|\b(system\s+prompt|new\s+instructions?)\s*:"
    r"|\b(answer|reply|respond)\s+(only\s+)?with\s+(exactly\s+)?[\"']|<\|im_(start|end)\|>"
)
_END = re.compile(
    r"(?<=[.!?])([\"')\]”’»]*)\s+(?=[\"'(\[“‘«]*([A-Z0-9][^\W_]*))|(?<=[。！？])(?=[^\s。！？」』）])"
    r"|\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.|[#|>])\s)"
)
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|vs|etc|No|Fig|al|e\.g|i\.e|U\.S|[A-Z]))\.$")
# what holds no statement: headings, code, tables, and reStructuredText's targets and directives without a sentence
_FURNITURE = re.compile(
    r"#|```|\||==|[^\n]+\n\s*([=~^*\-\"'+])\1{2,}\s*$|\.\. (_[^\n]*|[\w-]+::[ \t]*(\S+[ \t]*){0,3})$"
)
_ORDINAL = re.compile(r"(?:^|\s)\d{1,2}\.$")  # "am 11. Januar", or a number at the end of a sentence


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage, its place in the text (characters), and the log-probability that it answers."""

    passage: Passage
    start: int
    stop: int
    score: float

    @property
    def text(self) -> str:
        return " ".join(self.passage.text[self.start : self.stop].split())


def spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of each sentence, heading, or item of a list; blank ones left out."""
    out: list[tuple[int, int]] = []
    start = 0
    for found in _END.finditer(text):
        if not found[2] or _ends(text[start : found.start()][-8:], found[2]):
            out.append((start, max(found.start(), found.end(1))))
            start = found.end()
    out.append((start, len(text)))
    trimmed = ((a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in out)
    return [(a, b) for a, b in trimmed if b > a]


def statements(text: str) -> list[tuple[int, int]]:
    """Begin and end of what may be quoted: `spans` without headings, code, tables and directives."""
    return [(a, b) for a, b in spans(text) if not _FURNITURE.match(text[a:b])]


def _ends(before: str, word: str) -> bool:
    """Whether a sentence ends after `before`, where `word` follows in the same line."""
    return not (_ABBREVIATION.search(before) or (_ORDINAL.search(before) and word.lower() not in FUNCTION))


def without_orders(text: str) -> str:
    """A passage without its sentences that give orders to a model."""
    if not ORDERS.search(text):
        return text
    kept = [text[a:b] for a, b in spans(text) if not ORDERS.search(text[a:b])]
    return " ".join(kept)
