"""Learning the pieces of a unigram model: seeds from a suffix array, then EM and pruning in turn (Kudo 2018).

The corpus is reduced to the distinct stretches that a piece may be part of: a space and the text up to the next one,
cut where the script changes. All later steps run over those with their counts.

A character's script, by Unicode's property Script as the `regex` library has it.

`regex` tells whether a character is of a script that is named, not which scripts there are: their names are those that
Unicode's names of characters begin with.
"""

from __future__ import annotations

import functools
import itertools
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex

from llmanac.core.errors import TokenizerError
from llmanac.core.progress import progress
from llmanac.kernels.sentencepiece import trie as unigram_trie
from llmanac.kernels.sentencepiece import unigram_train
from llmanac.kernels.split.counts import WordCounts
from llmanac.kernels.split.words import GIVEN

FREQUENT = ("Common", "Inherited", "Latin", "Han", "Hiragana", "Katakana")


@functools.cache
def script_of(character: str) -> str:
    """The script of a character; "Common" where Unicode gives it none."""
    for name in (*FREQUENT, *_beginnings(character), *_all()):
        pattern = _pattern(name)
        if pattern is not None and pattern.match(character):
            return name
    return "Common"


def _beginnings(character: str) -> Iterator[str]:
    words = unicodedata.name(character, "").replace("-", " ").split(" ")[:3]
    for count in range(1, len(words) + 1):
        yield "_".join(words[:count])


@functools.cache
def _pattern(name: str) -> Any:
    """What matches a character of a script; None for what is no script's name."""
    if not name.replace("_", "").isalpha():
        return None
    try:
        return regex.compile(rf"\p{{Script={name}}}")
    except (regex.error, OverflowError, ValueError):  # INF is read as a number
        return None


@functools.cache
def _all() -> tuple[str, ...]:
    """The names of all scripts: with what the names of at least two characters begin, but for the frequent ones."""
    classes = "".join(rf"\p{{Script={name}}}" for name in FREQUENT)
    rest = regex.sub(f"[{classes}]+", "", "".join(map(chr, range(sys.maxunicode + 1))))
    found = Counter(name for character in rest for name in _beginnings(character))
    return tuple(sorted(name for name, count in found.items() if count > 1 and _pattern(name) is not None))


LONGEST_PIECE = 16  # characters
SHRINK = 0.75  # fraction of the pieces that a round of pruning keeps
ROUNDS = 2  # of EM between prunings
LEAST_USE = 0.5  # expected uses below which a piece is dropped at once
UNKNOWN_PENALTY = 10.0
LONG_VOWEL = "\u30fc"  # Common by the property; with Katakana, as in the library


@dataclass(frozen=True)
class Stretches:
    """Distinct stretches: bytes one after the other, (n + 1,) offsets, (n,) counts; and the alphabet, most frequent
    first, with how often each character occurs."""

    letters: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    alphabet: list[tuple[str, int]]


class CorpusWords:
    """The distinct words of a corpus, fed one packed, normalised buffer at a time."""

    def __init__(self) -> None:
        nothing = np.zeros(256, np.uint8)
        self._counted = WordCounts(nothing, nothing, GIVEN)

    @property
    def unique(self) -> int:
        return self._counted.unique

    def add(self, buffer: np.ndarray, used: int) -> None:
        self._counted.add(buffer, used, unigram_train.space_words(buffer, used))

    def stretches(self, coverage: float, room: int, never: str) -> Stretches:
        """Cut the words where no piece may reach across.

        Args:
            coverage: the fraction of the text that the alphabet must cover; rarer characters get no piece.
            room: how many characters there may be at most.
            never: characters that no piece may hold.
        """
        words, offsets, counts = self._counted.arrays()
        words = np.concatenate([words, np.zeros(32, np.uint8)])
        found = unigram_train.count_characters(words, offsets, counts)
        found[[0, *map(ord, never)]] = 0
        present = np.flatnonzero(found)
        present = present[np.lexsort((present, -found[present]))]
        before = np.cumsum(found[present]) - found[present]
        kept = present[before < coverage * found.sum()][:room]
        classes = np.zeros(0x110000, np.uint8)
        scripts: dict[str, int] = {}
        for code in kept.tolist():
            classes[code] = _class_of(chr(code), scripts)
        spans, totals = unigram_train.stretches(words, offsets, counts, classes)
        alphabet = [(chr(code), int(found[code])) for code in kept.tolist()]
        letters, offsets, counts = unigram_train.distinct(words, spans, totals)
        return Stretches(letters, offsets, counts, alphabet)


def _class_of(character: str, scripts: dict[str, int]) -> int:
    """A character's class: by Unicode's property Script, Chinese and Japanese as one.

    Inherited characters take the class of the one before; Common is a script like the others.
    """
    if character in (" ", "\u2581"):
        return unigram_train.SPACE
    script = script_of(character)
    if script == "Inherited":
        return unigram_train.MARK
    if script in ("Hiragana", "Katakana") or character == LONG_VOWEL:
        script = "Han"
    number = scripts.setdefault(script, len(scripts))
    return min(unigram_train.FIRST_SCRIPT + number, 255)


# ------------------------------------------------------------------------------------------------ seeds
def suffix_array(text: np.ndarray, left: np.ndarray, longest: int) -> np.ndarray:
    """Places of a text in the order of the suffixes that start there, by their first `longest` characters at least.

    Args:
        text: (n,) code points; left: (n,) how many characters there are up to and with the next 0, where suffixes end.

    Prefix doubling: the order by the first h characters makes that by the first 2h.
    """
    rank = np.unique(text, return_inverse=True)[1].astype(np.int64)
    width = 1
    while True:
        order = np.argsort(rank, kind="stable")
        if width >= longest:
            return order
        second = np.zeros(len(text), np.int64)
        inside = np.flatnonzero(left > width)
        second[inside] = rank[inside + width] + 1
        key = rank * (len(text) + 2) + second
        rank = np.unique(key, return_inverse=True)[1].astype(np.int64)
        width *= 2


def seeds(found: Stretches, most: int) -> dict[str, float]:
    """`{piece: score}`: every character, and the substrings that cover most of the text."""
    raw = found.letters[: found.offsets[-1]].tobytes()
    ends = found.offsets.tolist()
    joined = b"\0".join(raw[a:b] for a, b in itertools.pairwise(ends)) + b"\0"
    text = np.frombuffer(joined.decode("utf-8").encode("utf-32-le"), np.int32).astype(np.int64)
    stops = np.flatnonzero(text == 0)
    lengths = np.diff(stops, prepend=-1)
    left = np.repeat(stops, lengths) - np.arange(len(text)) + 1
    weights = np.repeat(found.counts, lengths)
    order = suffix_array(text, left, LONGEST_PIECE)
    order = order[text[order] != 0]
    padded = np.concatenate([text, np.zeros(LONGEST_PIECE + 1, np.int64)])
    table = unigram_train.repeated(padded, order, weights, LONGEST_PIECE)
    scores = table[:, 1] * table[:, 2]
    best = np.lexsort((table[:, 0], -scores))[:most]
    out = {character: float(count) for character, count in found.alphabet}
    characters = text.astype("<i4").tobytes().decode("utf-32-le")
    for start, length, score in zip(
        table[best, 0].tolist(), table[best, 1].tolist(), scores[best].tolist(), strict=True
    ):
        out[characters[start : start + length]] = float(score)
    return out


# ------------------------------------------------------------------------------------------------ EM
@dataclass
class Pieces:
    """The pieces at one time, sorted by their bytes, and the trie of them."""

    texts: list[bytes]
    scores: np.ndarray
    widths: np.ndarray

    def __post_init__(self) -> None:
        self.offsets = np.zeros(len(self.texts) + 1, np.int64)
        np.cumsum([len(text) for text in self.texts], out=self.offsets[1:])
        self.letters = np.frombuffer(b"".join(self.texts) + bytes(32), np.uint8)
        units = unigram_trie.build(self.letters, self.offsets, np.arange(len(self.texts)), False)
        self.nodes = unigram_trie.walkable(units)

    @classmethod
    def of(cls, scores: Mapping[str, float]) -> Pieces:
        """The pieces of `{text: score}`."""
        ordered = sorted(scores)  # UTF-8 has the order of the code points
        values = np.array([scores[text] for text in ordered], np.float64)
        return cls([text.encode("utf-8") for text in ordered], values, np.array([len(text) for text in ordered]))

    @property
    def unknown_score(self) -> float:
        return float(self.scores.min()) - UNKNOWN_PENALTY

    def losses(self, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(state, loss)` of each piece: whether it can be done without, and what likelihood that costs."""
        total = max(used.sum(), 1.0)
        return unigram_train.losses(
            self.letters, self.offsets, self.nodes, self.scores.copy(), self.unknown_score, used, total
        )

    def only(self, chosen: np.ndarray, scores: np.ndarray | None = None) -> Pieces:
        """Those at sorted places, with their scores or new ones."""
        texts = [self.texts[i] for i in chosen.tolist()]
        return Pieces(texts, self.scores[chosen] if scores is None else scores, self.widths[chosen])

    def rescored(self, scores: np.ndarray) -> Pieces:
        """The same pieces and trie with other scores."""
        made = object.__new__(Pieces)
        made.__dict__.update(self.__dict__ | {"scores": scores})
        return made


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of log gamma, for x > 0: the recurrence up to 10, then the asymptotic series."""
    x = np.array(x, np.float64)
    out = np.zeros_like(x)
    while (x < 10).any():
        small = x < 10
        out[small] -= 1 / x[small]
        x[small] += 1
    inverse = 1 / (x * x)
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse * (1 / 240 - inverse / 132))))
    return out + np.log(x) - 0.5 / x - series


def learn(found: Stretches, size: int) -> list[tuple[str, float]]:
    """The `size` best pieces with their log probabilities, the alphabet among them, best first."""
    start = seeds(found, max(100_000, 8 * size))
    texts = sorted(start)
    values = np.array([start[text] for text in texts])
    pieces = Pieces.of(dict(zip(texts, (np.log(values) - np.log(values.sum())).tolist(), strict=True)))
    pieces, _ = fitted(pieces, np.ones(len(texts), np.bool_), found, int(size * 1.1))
    return _final(pieces, found, size)


def fitted(pieces: Pieces, new: np.ndarray, found: Stretches, goal: int) -> tuple[Pieces, np.ndarray]:
    """EM and pruning in turn until at most `goal` new pieces are left: `(the pieces, which of them are new)`.

    Args:
        new: (pieces,) bool; pieces that are not new keep their scores and are never pruned.

    Raises:
        TokenizerError: scores of the old pieces that are no log probabilities.
    """
    words = (found.letters, found.offsets, found.counts)
    with progress("learn pieces", unit="pieces") as bar:
        while True:
            for _ in range(ROUNDS):
                pieces, new = _em_round(pieces, new, words)
                bar.update(int(new.sum()), goal=goal)
            before = int(new.sum())
            kept = _pruned(pieces, new, words, goal)
            pieces, new = pieces.only(kept), new[kept]
            bar.update(int(new.sum()), goal=goal)
            if int(new.sum()) <= goal or int(new.sum()) == before:  # what is left cannot be done without
                return pieces, new


def _em_round(pieces: Pieces, new: np.ndarray, words: tuple[np.ndarray, ...]) -> tuple[Pieces, np.ndarray]:
    """One round of EM: new pieces that are used get the score of their use, others go; the old ones stay as is."""
    expected = np.zeros(len(pieces.texts), np.float64)
    unigram_train.expectations(*words, pieces.nodes, pieces.scores, pieces.widths, pieces.unknown_score, expected)
    if not np.isfinite(expected).all():
        raise TokenizerError("extend: the model's scores are no log probabilities, so none can be learned with them")
    chosen = np.flatnonzero(~new | (expected >= LEAST_USE))
    scores, new, used = pieces.scores[chosen].copy(), new[chosen], expected[chosen]
    scores[new] = digamma(used[new]) - digamma(used.sum(keepdims=True))
    return pieces.rescored(scores) if len(chosen) == len(expected) else pieces.only(chosen, scores), new


def _pruned(pieces: Pieces, new: np.ndarray, words: tuple[np.ndarray, ...], goal: int) -> np.ndarray:
    """Places of the old pieces, and of the new ones that are kept in a round of pruning."""
    used = unigram_train.usage(*words, pieces.nodes, pieces.scores, pieces.unknown_score)
    state, loss = pieces.losses(used)
    needed, candidates = new & (state == unigram_train.KEPT), np.flatnonzero(new & (state == unigram_train.CANDIDATE))
    room = max(goal, int(SHRINK * new.sum())) - int(needed.sum())
    best = candidates[np.argsort(-loss[candidates], kind="stable")[: max(room, 0)]]
    return np.sort(np.concatenate([np.flatnonzero(~new | needed), best]))


def _final(pieces: Pieces, found: Stretches, size: int) -> list[tuple[str, float]]:
    state, _ = pieces.losses(np.ones(len(pieces.texts)))
    known = dict(zip([text.decode("utf-8") for text in pieces.texts], pieces.scores.tolist(), strict=True))
    lowest, missing = min(known.values(), default=0.0), 0
    out: dict[str, float] = {}
    for character, _ in found.alphabet:
        if character not in known:  # each a little different, so that none is as good as another
            known[character] = lowest + 0.0001 * missing
            missing += 1
        out[character] = known[character]
    reached = {text.decode("utf-8") for text, way in zip(pieces.texts, state.tolist(), strict=True) if way}
    for text, score in sorted(known.items(), key=lambda item: (-item[1], item[0])):
        if len(out) >= size:
            break
        if text in reached:
            out.setdefault(text, score)
    return sorted(out.items(), key=lambda item: (-item[1], item[0]))


def gather(buffers: Iterable[tuple[np.ndarray, int]]) -> CorpusWords:
    """Count the words of packed buffers, with progress."""
    words = CorpusWords()
    with progress("count words", unit="B") as bar:
        for buffer, used in buffers:
            words.add(buffer, used)
            bar.advance(used, words=words.unique)
    return words
