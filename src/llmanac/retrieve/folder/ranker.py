"""How probable it is that a passage, or a sentence of it, answers a question: regressions over features.

    p(passage) = softmax over the candidates of (w . f)      p(sentence) = p(passage) softmax over its sentences (v . g)
    p(the folder answers) = sigmoid(b + u . h)

Weights are read from a file that `fit.py` writes; `ranker.json` is the shipped one. There are three sets: for questions
that say a name (`named`), for others (`plain`), and for text without headings (`bare`). The bias b makes the
probability less than 0.5 where a question is to be refused. A share is of the summed idf of the question's words; words
that the index does not have are corrected by one edit. A `related` share is that of words whose text has another
one that means about the same, times how near they are (`related.npz`, which `fit.py` wrote too).

Features of a passage (f): `heading`: the share that its headings have; `said`: how much of the last heading's name the
question says; `dotted`: whether a dotted name of the question is in the headings; `named`: the idf of what that name
ends with, where the question has it; `name`: the logarithm of the number of the name's words; `mentions`: how frequent
its last word is; `covered`: the share that the passage has; `sentence`: the share, with related words, of its best
sentence, of the words that the headings lack; `bm25`: BM25 of the text over its highest value; `missing`: the rarest
word that is missing; `length`: the logarithm of its number of words; `first`: whether it is the first below its
heading; `lead`: the share, with related words, of the headings and its first sentence then; `lead said`: how much of
this sentence the question says; `cosine`: of vectors.
Of the question and its best passage (h): the same of the passage; `margin`: its log-probability; `unknown`,
`corrected`: shares of the question; `words`: the logarithm of their number; `strange`: whether a name with dots,
underscores or capitals inside is unknown.
Features of a sentence (g), to which words of the one before belong where it begins with a pronoun: `own`: the share
that it has; `rest`: the share, with related words, of words that the headings lack; `first`: of the section; `lead`:
that where the question has no other word than the headings; `place`, `length`; `new`: its share of words that the
question lacks; `wanted`: it has the number or the name that a question word asks for.
"""

from __future__ import annotations

import functools
import math
import re
import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError
from llmanac.retrieve._words import STOP, code_words, content
from llmanac.retrieve.folder.index import FolderIndex, Passage
from llmanac.retrieve.folder.quotes import ORDERS, Quote, statements

PASSAGE = (
    "heading", "heading related", "said", "said related", "dotted", "named", "name", "mentions", "covered", "related",
    "sentence", "bm25", "bm25 related", "missing", "length", "first", "lead", "lead said", "cosine",
)  # fmt: skip
ANSWER = (*PASSAGE, "margin", "unknown", "corrected", "words", "strange")
SENTENCE = ("own", "related", "rest", "first", "lead", "place", "length", "new", "wanted")
PARTS = {"passage": PASSAGE, "answer": ANSWER, "sentence": SENTENCE}
SETS = ("named", "plain", "bare")
THRESHOLD = 0.5  # the probability that the folder answers, below which it does not
CANDIDATES = 60  # passages of each retriever whose features are computed
Related = Mapping[str, Mapping[str, float]]
SHIPPED = Path(__file__).with_name("ranker.json")
RELATED = Path(__file__).with_name("related.npz")
_LETTERS = string.ascii_lowercase + string.digits + "."
REPEAT, MOST = 2, 8  # times that a word is in a query with related ones; those
_NAME = re.compile(r"\w*[^\W\d]\w*(?:[._]\w+)+|\b[A-Za-z]*[a-z][A-Z]\w*")
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
    """A question.

    Attributes:
        words: their idf; whole: its sum. near: by word, those of the index that mean about the same, with how near.
        every: words and near ones; back: how near each is to a word. unknown, corrected: shares; strange: see above.
        programs: whether a name is written as in programs; odd: words of the index that are no English ones.
    """

    text: str
    words: Mapping[str, float]
    whole: float
    near: Mapping[str, Mapping[str, float]]
    every: frozenset[str]
    back: Mapping[str, float]
    unknown: float
    corrected: float
    strange: float
    programs: bool
    odd: frozenset[str]

    def share(self, held: Set[str], related: bool = False, besides: Set[str] = frozenset()) -> float:
        """The share of the words that are held; of those that are not `besides`, 1 where there are none."""
        there = self.every & held
        if not there:
            return float(bool(besides) and self.words.keys() <= besides)
        got = whole = 0.0
        for word, idf in self.words.items():
            if word in besides:
                continue
            whole += idf
            if word in there:
                got += idf
            elif related:
                got += idf * max((near for other, near in self.near[word].items() if other in there), default=0.0)
        return got / whole if whole else float(bool(besides))


@dataclass(frozen=True)
class RankerWeights:
    """What `fit.py` writes for a set: of features in the order of `PARTS`, with a bias at the end of each."""

    passage: np.ndarray
    answer: np.ndarray
    sentence: np.ndarray

    @classmethod
    def read(cls, method: str, path: str | Path = SHIPPED) -> dict[str, RankerWeights]:
        """By set, the weights for a method of retrieval. Raises CheckpointError where the file does not have them."""
        try:
            data = files.read_table(path)["weights"]["bm25" if method == "bm25" else "hybrid"]
            out = {
                name: [
                    np.array([float(data[name][part][f]) for f in (*names, "bias")]) for part, names in PARTS.items()
                ]
                for name in SETS
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: no weights for {method} ({error}); write it again with `fit`") from None
        if not all(np.isfinite(values).all() for parts in out.values() for values in parts):
            raise CheckpointError(f"{path}: weights are not finite; write it again with `fit`")
        return {name: cls(*parts) for name, parts in out.items()}


@functools.cache
def related_words(path: Path = RELATED) -> dict[str, dict[str, float]]:
    """By word (a stem), others that mean about the same, with how near they are (0 to 1)."""
    with np.load(path, allow_pickle=False) as data:
        words, near, like = bytes(data["words"]).decode().split("\n"), data["near"], data["like"]
    return {
        word: {words[i]: n / 255 for i, n in zip(row.tolist(), likes.tolist(), strict=True) if n}
        for word, row, likes in zip(words, near, like, strict=True)
    }


@functools.lru_cache(maxsize=1 << 13)  # passages: those of the quickstart's documents
def _read(
    heading: str, text: str, part: int
) -> tuple[frozenset[str], frozenset[str], str, Counter[str], list[tuple[int, int, frozenset[str]]], bool]:
    """Words of the headings, of the last one's name, its end; words of the text; the sentences with theirs; whether the
    passage is the first below its heading."""
    title = heading.rpartition(" > ")[2]
    name = title.partition("(")[0]
    last = code_words(re.split(r"[\s.]", name.strip())[-1])[:1] or [""]
    read = [(a, b, code_words(text[a:b])) for a, b in statements(text) if not ORDERS.search(text[a:b])]
    words = Counter(word for _, _, own in read for word in own if word not in STOP)
    sentences = [(a, b, frozenset(own) - STOP) for a, b, own in read]
    return content(heading), content(name), last[0], words, sentences, _begins(title, text, part)


def begins(passage: Passage) -> bool:
    """Whether a passage is the first below its heading; without headings, of its document."""
    return _begins(passage.heading.rpartition(" > ")[2], passage.text, passage.part)


def _begins(title: str, text: str, part: int) -> bool:
    return title in text.lstrip().partition("\n")[0] if title else part <= 1


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
        method: of the retrieval that gives candidates. weights, related: by default the shipped ones.
    """

    def __init__(
        self,
        index: FolderIndex,
        method: str = "bm25",
        weights: Mapping[str, RankerWeights] | None = None,
        related: Related | None = None,
    ) -> None:
        self.index, self.method, self.weights = index, method, weights or RankerWeights.read(method)
        self.lexical, self.related = index.retriever("bm25"), related_words() if related is None else related
        self.weight = functools.cache(self.lexical.weight)
        self.unseen = self.weight("\0")
        self.vector: tuple[str, np.ndarray] = ("", np.empty(0))  # of the last question

    def asked(self, question: str, gone: Collection[str] = ()) -> Asked:
        """A question's words, with those that the index does not have corrected where one edit is enough.

        Args:
            gone: words of the index that count as if it did not have them.
        """
        question = _NAME.sub(lambda name: self._known_end(name[0], gone), question)
        words, unknown, corrected = dict[str, float](), 0.0, 0.0
        for word in dict.fromkeys(w for w in code_words(question) if w not in STOP):
            found = word if self._has(word, gone) else self._near(word, gone)
            there = self._has(found, gone)
            idf = self.weight(found) if there else self.unseen
            unknown += idf * (not there)
            corrected += idf * (found != word)
            words[found] = idf
        whole = sum(words.values()) or 1.0
        names = _NAME.findall(question)
        strange = not all(self._has(code_words(name)[0], gone) for name in names)
        table = self.related
        odd = frozenset(w for w in words if len(w) >= _SHORT and w not in table and self._has(w, gone))
        near = {word: {w: n for w, n in table.get(word, {}).items() if self._has(w, gone)} for word in words}
        every = frozenset(words).union(*near.values())
        back = dict[str, float]()
        for word in words:
            for other, likeness in near[word].items():
                back[other] = max(likeness, back.get(other, 0.0))
        back |= dict.fromkeys(words, 1.0)
        return Asked(
            question,
            words,
            whole,
            near,
            every,
            back,
            unknown / whole,
            corrected / whole,
            float(strange),
            bool(names),
            odd,
        )

    def _known_end(self, name: str, gone: Collection[str]) -> str:
        """`heappush` of `heapq.heappush` where no text has the whole name, and the file heapq.txt its end."""
        around, _, end = name.casefold().rpartition(".")
        own = code_words(end)[:1]
        if not around or self._has(code_words(name)[0], gone) or not own or not self._has(own[0], gone):
            return name
        files = (PurePath(self.index[hit.position].document) for hit in self.lexical.top(own, CANDIDATES))
        return end if any(around == file.stem.casefold() for file in files) else name

    def _has(self, word: str, gone: Collection[str]) -> bool:
        return word in self.lexical.vocabulary and word not in gone

    def _near(self, word: str, gone: Collection[str]) -> str:
        """The most frequent word of the index that is one edit away; else the word itself."""
        if len(word) <= _SHORT or not word.isascii() or word in self.related:
            return word
        found = {other for other in edits(word) if self._has(other, gone)}
        return min(found, key=lambda other: (self.weight(other), other), default=word)

    def candidates(self, asked: Asked, k: int = CANDIDATES) -> list[tuple[Passage, float]]:
        """Passages that may answer, the `k` best of each retriever, each with its cosine, 0 without vectors; equal
        texts once."""
        further = [w for word in asked.words for w in (*[word] * REPEAT, *list(asked.near[word])[:MOST])]
        hits = (*self.lexical.top(list(asked.words), k), *self.lexical.top(further, k))
        places = {hit.position: 0.0 for hit in hits}
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
        above, name, last, body, sentences, first = _read(passage.heading, passage.text, passage.part)
        length, weight = body.total(), self.weight
        slow = _K1 * (1 - _B + _B * length / _USUAL)
        heading, covered = asked.share(above), asked.share(above | body.keys())
        held = {w: body[w] / (body[w] + slow) for w in asked.every & body.keys()}
        lead = sentences[0][2] if sentences and first else frozenset()
        said = sum(weight(w) for w in name if w in asked.words) / max(1e-9, sum(map(weight, name)))
        return [
            heading, asked.share(above, True) - heading, said, self._said(name, asked) - said,
            float(any("." in word and word in above for word in asked.words)),
            asked.words.get(last, 0.0) / self.unseen, math.log1p(len(name)), self.unseen - weight(last),
            covered, asked.share(above | body.keys(), True) - covered,
            max((asked.share(own, True, above) for _, _, own in sentences), default=0.0),
            sum(idf * held.get(w, 0.0) for w, idf in asked.words.items()) / asked.whole,
            sum(idf * max((held[v] * n for v, n in asked.near[w].items() if v in held), default=0.0)
                for w, idf in asked.words.items() if w not in held) / asked.whole,
            max((idf for w, idf in asked.words.items() if w not in above and w not in body), default=0.0) / self.unseen,
            math.log1p(length), float(first), asked.share(above | lead, True) if lead else 0.0, self._said(lead, asked),
            cosine,
        ]  # fmt: skip

    def _said(self, words: Collection[str], asked: Asked) -> float:
        """The related share of a text's words that the question says."""
        weight = self.weight
        return sum(weight(w) * asked.back.get(w, 0.0) for w in words) / max(1e-9, sum(map(weight, words)))

    def passages(self, asked: Asked, without: Collection[str] = ()) -> tuple[list[tuple[Passage, float]], float]:
        """Candidates with their log-probabilities, best first, and the log-odds that the folder answers.

        Args:
            without: documents that count as removed.
        """
        found = [one for one in self.candidates(asked) if one[0].document not in without] if asked.words else []
        if not found:
            return [], -60.0
        weights, x = self.weights[set_of(asked, found)], np.array([self.features(asked, *one) for one in found])
        logs = log_softmax(x @ weights.passage[:-1])
        order = np.argsort(-logs, kind="stable")
        best = [*x[order[0]], *self.answer_features(asked, logs), 1.0]
        return [(found[i][0], float(logs[i])) for i in order], float(weights.answer @ best)

    @staticmethod
    def answer_features(asked: Asked, logs: np.ndarray) -> list[float]:
        """What `ANSWER` has besides the best passage's own features."""
        return [float(logs.max()), asked.unknown, asked.corrected, math.log1p(len(asked.words)), asked.strange]

    def sentence_features(self, asked: Asked, passage: Passage) -> Iterator[tuple[int, int, list[float]]]:
        """Begin, end and features (in the order of `SENTENCE`) of each sentence that could answer."""
        above, _, _, _, sentences, first = _read(passage.heading, passage.text, passage.part)
        bare = not asked.words.keys() - above
        wanted = next((needed for question, needed in WANTED if question.search(asked.text)), None)
        subject: frozenset[str] = frozenset()  # of the last sentence that names what it is about
        for place, (a, b, words) in enumerate(sentences):
            text = passage.text[a:b]
            subject = subject if PRONOUN.match(text) else words
            if not words or text.endswith("?"):
                continue
            held = words | subject
            own, leads = asked.share(held), float(place == 0 and first)
            yield a, b, [
                own, asked.share(held, True) - own, asked.share(held, True, above), leads, leads * bare,
                math.log1p(place), math.log1p(len(words)), len(words - asked.words.keys()) / len(words),
                float(wanted is not None and bool(wanted.search(text))),
            ]  # fmt: skip

    def quotes(self, asked: Asked, passages: Sequence[tuple[Passage, float]], odds: float = 60.0) -> list[Quote]:
        """The sentences of rated passages with their log-probabilities, best first."""
        out, answers = list[Quote](), math.log(sigmoid(odds))
        for passage, log in passages:
            if rated := list(self.sentence_features(asked, passage)):
                weights = self.weights[set_of(asked, passages)].sentence[:-1]
                logs = log_softmax(np.array([values for _, _, values in rated]) @ weights)
                out += [
                    Quote(passage, a, b, answers + log + float(own)) for (a, b, _), own in zip(rated, logs, strict=True)
                ]
        return sorted(out, key=lambda quote: -quote.score)


def set_of(asked: Asked, found: Sequence[tuple[Passage, float]]) -> str:
    """The set of weights for a question with its candidates or passages."""
    if found and not found[0][0].heading:
        return "bare"
    named = asked.programs or any(asked.odd & content(passage.heading) for passage, _ in found)
    return "named" if named else "plain"


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores)
