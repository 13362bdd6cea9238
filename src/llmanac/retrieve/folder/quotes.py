"""Sentences of passages, and how well a text supports another: the share of its content words, rare ones first.

    support(a, b) = sum of idf(w) over content words w of a that b has  /  sum of idf(w) over those of a

Words are compared by their Porter stems; a number counts as a word. A sentence for a question is ranked by its own
support of it, that of its passage and neighbours, and whether it has what the question word asks for (a number for
"how many", a name for "who").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llmanac.evaluate._english import FUNCTION
from llmanac.metrics._porter import stem
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.folder.index import Found, Passage

# orders to a reader that is a model, which a document may hold to change its answers
ORDERS = re.compile(
    r"(?is)\b(ignore|disregard|forget|override)\b.{0,40}\b(instructions?|prompts?|rules|directions|above|previous)\b"
    r"|\byou\s+(are\s+now|must\s+now|must\s+(only\s+)?(answer|reply|respond|say))\b|\b(system\s+prompt|new\s+instructions?)\s*:"
    r"|\b(answer|reply|respond)\s+(only\s+)?with\s+(exactly\s+)?[\"']|<\|im_(start|end)\|>"
)
_ASKING = """what which who whom whose when where why how many much long often far old does did do is are was were can
could tell explain describe name call called please anyone say aren isn wasn weren don doesn didn couldn shouldn t"""
ASKING = frozenset(_ASKING.split())
_END = re.compile(
    r"(?<=[.!?])([\"')\]”’»]*)\s+(?=[\"'(\[“‘«]*([A-Z0-9][^\W_]*))|\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.|[#|>])\s)"
)
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|vs|etc|No|Fig|al|e\.g|i\.e|U\.S|[A-Z]))\.$")
_ORDINAL = re.compile(r"(?:^|\s)\d{1,2}\.$")  # "am 11. Januar", or a number at the end of a sentence
_DIGIT = re.compile(r"\d")
_NAME = re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z][a-z]+")
_OPEN = re.compile(r"(?i)\b(what|which|who|whom|whose|when|where|why|how)\b")  # asks for more than yes or no
WANTED: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (re.compile(r"(?i)\b(when|what year|which year|how (many|much|long|old|far|often|tall|big))\b"), _DIGIT),
    (re.compile(r"(?i)\b(who|whom|whose|where|which (city|country|person|team))\b"), _NAME),
)
_PRONOUN = re.compile(r"(?:It|Its|He|His|She|Her|They|Their|This|These|That|Those)\b")
Weight = Callable[[str], float]


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage, its place in the passage's text (characters), and its score for the question."""

    passage: Passage
    start: int
    stop: int
    score: float

    @property
    def text(self) -> str:
        return " ".join(self.passage.text[self.start : self.stop].split())


@functools.lru_cache(maxsize=4096)
def content(text: str) -> frozenset[str]:
    """Stems of the words of a text that are not function words."""
    words = (word for word in plain_words(text.replace("_", " ")) if word not in FUNCTION and word not in ASKING)
    return frozenset(map(stem, words))


def support(text: str, held: Iterable[str], weight: Weight) -> float:
    """The weighted share of a text's content words that are among the stems `held`; 0 where it has none."""
    words, held = content(text), frozenset(held)
    total = sum(map(weight, words))
    return sum(weight(word) for word in words & held) / total if total else 0.0


def spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of each sentence, heading, or item of a list; blank ones left out."""
    out: list[tuple[int, int]] = []
    start = 0
    for found in _END.finditer(text):
        if "\n" in found.group() or _ends(text[start : found.start()][-8:], found[2]):
            out.append((start, max(found.start(), found.end(1))))
            start = found.end()
    out.append((start, len(text)))
    trimmed = ((a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in out)
    return [(a, b) for a, b in trimmed if b > a]


def _ends(before: str, word: str) -> bool:
    """Whether a sentence ends after `before`, where `word` follows in the same line."""
    return not (_ABBREVIATION.search(before) or (_ORDINAL.search(before) and word.lower() not in FUNCTION))


def without_orders(text: str) -> str:
    """A passage without its sentences that give orders to a model."""
    if not ORDERS.search(text):
        return text
    kept = [text[a:b] for a, b in spans(text) if not ORDERS.search(text[a:b])]
    return " ".join(kept)


def quotes(question: str, found: Sequence[Found], weight: Weight) -> list[Quote]:
    """The sentences of passages, the best for the question first; no orders to a model, headings or questions."""
    wanted = next((needed for asked, needed in WANTED if asked.search(question)), None)
    asked, opened = content(question), _OPEN.search(question)
    out: list[Quote] = []
    for rank, one in enumerate(found):
        text = one.passage.text
        places = [(a, b) for a, b in spans(text) if not ORDERS.search(text[a:b])]
        stems = [content(text[a:b]) for a, b in places]
        carried: frozenset[str] = frozenset()  # of the last sentence that names its subject
        whole = support(question, content(f"{one.passage.heading} {text}"), weight)
        for number, (a, b) in enumerate(places):
            pronoun = _PRONOUN.match(text[a:b])
            carried = carried if pronoun else stems[number]
            if text[a:b].startswith(("#", "```", "|", "==")) or text[a:b].endswith("?"):
                continue
            if opened and stems[number] <= asked:  # it says no more than the question
                continue
            own = support(question, stems[number], weight)
            if pronoun:  # "It" and "Its" are what an earlier sentence is about
                own = max(
                    own, 0.95 * support(question, stems[number] | carried, weight) if stems[number] & asked else own
                )
            near = support(question, frozenset().union(*stems[max(0, number - 1) : number + 2]), weight)
            score = own + 0.5 * whole + 0.3 * near - 0.05 * rank
            if wanted is not None and wanted.search(text[a:b]):
                score += 0.15
            out.append(Quote(one.passage, a, b, score))
    return sorted(out, key=lambda quote: -quote.score)
