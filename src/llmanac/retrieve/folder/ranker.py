"""How probable it is that a passage, or a sentence of it, answers a question: a logistic regression over features.

    p(passage) = sigmoid(b + sum of w_i f_i)        p(sentence) = p(passage) softmax over its sentences (sum of v_i g_i)

Weights and the threshold of a refusal are read from a file that `fit.py` writes; `ranker.json` is the shipped one. A
share is of the summed idf of the question's words; words that the index does not have are corrected by one edit.

Features of a passage: `heading`: the share that its headings have; `said`: how much of the last heading's name the
question says; `dotted`: whether a dotted name of the question is in the headings; `named`: the idf of what that name
ends with, where the question has it; `bare`: whether there is no heading. The others have two weights, one for passages
whose headings have a word of the question, and one, `unsaid`, for those that have none: `covered`: the share that the
passage has; `rest`: the share, of words that the headings lack, in the text; `sentence`: the same in its best sentence;
`bm25`: BM25 of the text over its highest value; `missing`: the rarest word that is missing; `unknown`, `corrected`:
shares of the question; `words`, `length`: logarithms of their numbers; `first`: whether the document begins with it;
`lead`: the share in its first sentence then; `cosine`: of vectors.
Features of a sentence, to which words of the one before belong where it begins with a pronoun: `own`: the share that it
has; `rest`: that of words that the headings lack; `first`: the document begins with it, and the question has no such
word; `place`, `length`; `new`: its share of words that the question lacks; `wanted`: it has the number or the name
that a question word asks for.
"""

from __future__ import annotations

import functools
import math
import re
import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError
from llmanac.retrieve._words import STOP, code_words, content
from llmanac.retrieve.folder.index import FolderIndex, Passage
from llmanac.retrieve.folder.quotes import ORDERS, Quote, spans

_OF_BOTH = (
    "covered", "rest", "sentence", "bm25", "missing", "unknown", "corrected", "words", "length", "first", "lead",
    "cosine",
)  # fmt: skip
PASSAGE = ("heading", "said", "dotted", "named", "bare", *_OF_BOTH, *(f"unsaid {name}" for name in _OF_BOTH))
SENTENCE = ("own", "rest", "first", "place", "length", "new", "wanted")
CANDIDATES = 30  # passages of each retriever whose features are computed
SHIPPED = Path(__file__).with_name("ranker.json")
_LETTERS = string.ascii_lowercase + string.digits + "."
_SHORT = 4  # letters of a word that is not corrected: too many others are near
_K1, _B, _USUAL = 1.5, 0.75, 60.0  # BM25's own, and words of a text of usual length
PRONOUN = re.compile(r"(?:It|Its|He|His|She|Her|They|Their|This|These|That|Those)\b")
WANTED = (
    (re.compile(r"(?i)\b(when|what year|which year|how (many|much|long|old|far|often|tall|big))\b"), re.compile(r"\d")),
    (
        re.compile(r"(?i)\b(who|whom|whose|where|which (city|country|person|team))\b"),
        re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z][a-z]+"),
    ),
)


@dataclass(frozen=True)
class Asked:
    """A question: its text, the idf of its words, their sum, and shares of unknown and of corrected words."""

    text: str
    words: Mapping[str, float]
    whole: float
    unknown: float
    corrected: float

    def share(self, held: Any) -> float:
        """The share of the words that are held."""
        return sum(idf for word, idf in self.words.items() if word in held) / self.whole if self.whole else 0.0


@dataclass(frozen=True)
class Weights:
    """What `fit.py` writes: of features by name, with `bias`; and the probability below which an answer is refused."""

    passage: Mapping[str, float]
    sentence: Mapping[str, float]
    threshold: float

    @classmethod
    def read(cls, method: str, path: str | Path = SHIPPED) -> Weights:
        """The weights for a method of retrieval. Raises CheckpointError where the file does not have them."""
        try:
            data = files.read_table(path)["weights"]["bm25" if method == "bm25" else "hybrid"]
            vectors = [[float(data[part][name]) for name in (*names, "bias")]
                       for part, names in (("passage", PASSAGE), ("sentence", SENTENCE))]  # fmt: skip
            out = cls(data["passage"], data["sentence"], float(data["threshold"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: no weights for {method} ({error}); write it again with `fit`") from None
        if not np.isfinite(sum(vectors, [out.threshold])).all():
            raise CheckpointError(f"{path}: weights are not finite; write it again with `fit`")
        return out


@functools.lru_cache(maxsize=4096)
def _read(heading: str, text: str) -> tuple[frozenset[str], frozenset[str], str, Counter[str], list[Any]]:
    """Words of the headings, of the last one's name, its end; words of the text, and the sentences with theirs."""
    name = heading.rpartition(" > ")[2].partition("(")[0]
    last = code_words(re.split(r"[\s.]", name.strip())[-1])[:1] or [""]
    places = [(a, b) for a, b in spans(text) if not ORDERS.search(text[a:b])]
    sentences = [(a, b, content(text[a:b])) for a, b in places if not text[a:b].startswith(("#", "```", "|", "=="))]
    words = Counter(word for a, b, _ in sentences for word in code_words(text[a:b]) if word not in STOP)
    return content(heading), content(name), last[0], words, sentences


def edits(word: str) -> Iterator[str]:
    """Every word one edit away: a letter dropped, swapped with the next, changed, or put in."""
    for i in range(len(word) + 1):
        a, b = word[:i], word[i:]
        if b:
            yield a + b[1:]
        if len(b) > 1:
            yield a + b[1] + b[0] + b[2:]
        for letter in _LETTERS:
            yield a + letter + b[1:]
            yield a + letter + b


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))


class Ranker:
    """Ranks passages and sentences of an index.

    Args:
        method: of the retrieval that gives candidates; weights: by default the shipped ones of this method.
    """

    def __init__(self, index: FolderIndex, method: str = "bm25", weights: Weights | None = None) -> None:
        self.index, self.method, self.weights = index, method, weights or Weights.read(method)
        self.lexical = index.retriever("bm25")
        self.unseen = self.lexical.weight("\0")
        self.vector: tuple[str, np.ndarray] = ("", np.empty(0))  # of the last question

    def asked(self, question: str, gone: Collection[str] = ()) -> Asked:
        """A question's words, with those that the index does not have corrected where one edit is enough.

        Args:
            gone: words of the index that count as if it did not have them.
        """
        words, unknown, corrected = dict[str, float](), 0.0, 0.0
        for word in dict.fromkeys(w for w in code_words(question) if w not in STOP):
            found = word if self._has(word, gone) else self._near(word, gone)
            there = self._has(found, gone)
            idf = self.lexical.weight(found) if there else self.unseen
            unknown += idf * (not there)
            corrected += idf * (found != word)
            words[found] = idf
        whole = sum(words.values())
        return Asked(question, words, whole, unknown / whole if whole else 0.0, corrected / whole if whole else 0.0)

    def _has(self, word: str, gone: Collection[str]) -> bool:
        return word in self.lexical.vocabulary and word not in gone

    def _near(self, word: str, gone: Collection[str]) -> str:
        """The most frequent word of the index that is one edit away; else the word itself."""
        if len(word) <= _SHORT or not word.isascii():
            return word
        found = {other for other in edits(word) if self._has(other, gone)}
        return min(found, key=lambda other: (self.lexical.weight(other), other), default=word)

    def candidates(self, asked: Asked, k: int = CANDIDATES) -> list[tuple[Passage, float]]:
        """Passages that may answer, the `k` best of each retriever, each with its cosine, 0 without vectors; equal
        texts once."""
        places = {hit.position: 0.0 for hit in self.lexical.top(list(asked.words), k)}
        if self.method != "bm25":
            dense = self.index.retriever("dense")
            if self.vector[0] != asked.text:
                self.vector = asked.text, dense.queries([asked.text])
            vector = self.vector[1]
            near, _ = dense.search(vector, k)
            every = np.array([*dict.fromkeys([*places, *near[0].tolist()])], np.int64)
            if len(every):
                cosines = np.asarray(dense.vectors[every], np.float32) @ vector[0]
                places = dict(zip(every.tolist(), cosines.tolist(), strict=True))
        passages = ((self.index[place], cosine) for place, cosine in places.items())
        return list({" ".join(p.text.split()): (p, cosine) for p, cosine in passages}.values())

    def features(self, asked: Asked, passage: Passage, cosine: float) -> list[float]:
        """The features of a passage, in the order of `PASSAGE`."""
        above, name, last, body, sentences = _read(passage.heading, passage.text)
        rest = {word: idf for word, idf in asked.words.items() if word not in above}
        whole = sum(rest.values())

        def outside(held: Any) -> float:
            return sum(idf for word, idf in rest.items() if word in held) / whole if whole else 1.0

        length = body.total()
        slow = _K1 * (1 - _B + _B * length / _USUAL)
        heading, weight = asked.share(above), self.lexical.weight
        both = [
            asked.share(above | body.keys()), outside(body),
            max((outside(words) for _, _, words in sentences), default=0.0),
            sum(idf * body[w] / (body[w] + slow) for w, idf in asked.words.items()) / max(1e-9, asked.whole),
            max((idf for w, idf in rest.items() if w not in body), default=0.0) / self.unseen,
            asked.unknown, asked.corrected, math.log1p(len(asked.words)), math.log1p(length), float(passage.part <= 1),
            asked.share(sentences[0][2]) if sentences and passage.part <= 1 else 0.0, cosine,
        ]  # fmt: skip
        return [
            heading, sum(weight(w) for w in name if w in asked.words) / max(1e-9, sum(map(weight, name))),
            float(any("." in word and word in above for word in asked.words)),
            asked.words.get(last, 0.0) / self.unseen, float(not above), *(value * bool(heading) for value in both),
            *(value * (not heading) for value in both),
        ]  # fmt: skip

    def passages(self, asked: Asked) -> list[tuple[Passage, float]]:
        """Candidates with the log-odds that they answer, best first."""
        if not asked.words:
            return []
        rated = [
            (p, _odds(self.weights.passage, PASSAGE, self.features(asked, p, c))) for p, c in self.candidates(asked)
        ]
        return sorted(rated, key=lambda one: -one[1])

    def sentence_features(self, asked: Asked, passage: Passage) -> Iterator[tuple[int, int, list[float]]]:
        """Begin, end and features (in the order of `SENTENCE`) of each sentence that could answer."""
        above, _, _, _, sentences = _read(passage.heading, passage.text)
        outside = {word: idf for word, idf in asked.words.items() if word not in above}
        whole = sum(outside.values()) or 1.0
        wanted = next((needed for question, needed in WANTED if question.search(asked.text)), None)
        subject: frozenset[str] = frozenset()  # of the last sentence that names what it is about
        for place, (a, b, words) in enumerate(sentences):
            text = passage.text[a:b]
            subject = subject if PRONOUN.match(text) else words
            if not words or text.endswith("?"):
                continue
            held = words | subject
            yield a, b, [
                asked.share(held), sum(idf for word, idf in outside.items() if word in held) / whole,
                float(place == 0 and passage.part <= 1 and not outside), math.log1p(place), math.log1p(len(words)),
                len(words - asked.words.keys()) / len(words), float(wanted is not None and bool(wanted.search(text))),
            ]  # fmt: skip

    def quotes(self, asked: Asked, passages: Sequence[tuple[Passage, float]]) -> list[Quote]:
        """The sentences of rated passages with their log-probabilities, best first."""
        out: list[Quote] = []
        for passage, odds in passages:
            rated = list(self.sentence_features(asked, passage))
            scores = np.array([_odds(self.weights.sentence, SENTENCE, values) for _, _, values in rated])
            logs = scores - np.logaddexp.reduce(scores) + math.log(sigmoid(odds)) if rated else scores
            out += [Quote(passage, a, b, float(log)) for (a, b, _), log in zip(rated, logs, strict=True)]
        return sorted(out, key=lambda quote: -quote.score)


def _odds(weights: Mapping[str, float], names: Sequence[str], values: Sequence[float]) -> float:
    return weights["bias"] + sum(weights[name] * value for name, value in zip(names, values, strict=True))
