"""Answers from a folder's passages, each with its source, or a refusal.

1. Passages are ranked by the probability that they answer (`ranker.py`); below the threshold the answer is a refusal.
   Where there are earlier questions, the question is also asked with the words of each of the last ones before it,
   and as a model rewrites it in one line, where there is one; the one that the folder most probably answers counts.
2. `extract`: the most probable sentences. `quote`: a reader weighs these sentences and that none of them answers, and
   its probabilities are multiplied with the ranker's. `free`: a model writes; each sentence must name a passage that
   was shown, or is given the best one, which must support it (`checks.py`); others are dropped, and where none is
   left, the answer is a refusal.

Whether a passage supports a sentence that a model wrote: a check of words against one sentence of the passage.

A sentence is supported where one sentence of the passage

1. has every name and number of it, and a content word that is next to the number, where there is one;
2. denies the same words ("not");
3. has `AGREES` of the other words that it adds to the question, rare words counting more; where it adds a name or a
   number alone, one word of the question; where it adds nothing, `AGREES` of all its other words.

What the passage's headings say belongs to each of its sentences. A sentence with a pronoun before any name ("Its keeper
is ...") has the names of the one before it, and the words of the question that are in that one. A last name stands for
the full one that the passage has. Whether words in another order say something else is not seen.

That is stricter than the support of a question by a complete passage (`quotes.py`), which decides on refusals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.metrics import stem
from llmanac.retrieve._words import STOP, content, plain_words
from llmanac.retrieve.folder.index import FolderIndex, Passage
from llmanac.retrieve.folder.quotes import ORDERS, Quote, spans
from llmanac.retrieve.folder.ranker import THRESHOLD, Asked, Ranker, RankerWeights, sigmoid
from llmanac.retrieve.folder.reader import CHOICES, REFUSAL, RULES, PassageReader, Reader

AGREES = 0.5
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_FORMS = "it its he his him she her they their them"
_THIS = ("this", "these")  # where a sentence begins with them
_DENIALS = "no not never none nor neither nobody nothing cannot without"
_FRAMES = "yes yeah no indeed correct sure according based passage document text provided mention state"
_COUNTS = "two three four five six seven eight nine ten eleven twelve"
_PRONOUNS, _NOT = frozenset(_FORMS.split()), frozenset(_DENIALS.split())
_FRAME = frozenset(map(stem, _FRAMES.split()))  # how an answer begins, or says where it is from
COUNTS = {word: str(number) for number, word in enumerate(_COUNTS.split(), 2)}
_NAME = re.compile(r"[A-Z][^\W\d_]+(?: [A-Z][^\W\d_]+){1,3}")  # of several words
Weight = Callable[[str], float]
_WHERE = re.compile(r"(?i)\bpassages? \d+")


@dataclass(frozen=True)
class Said:
    """What a sentence says.

    Attributes:
        numbers: without commas of thousands, with the stems of the content words directly before and after each.
        names, words: stems of names, and of all other content words; denied: of those that a "not" is before.
        pronoun: whether a pronoun comes before any name.
    """

    names: frozenset[str]
    words: frozenset[str]
    numbers: dict[str, frozenset[str]]
    denied: frozenset[str]
    pronoun: bool

    @property
    def all(self) -> frozenset[str]:
        """Stems of all content words."""
        return self.names | self.words


def names_in(text: str) -> frozenset[str]:
    """Stems of words with a capital letter that do not begin a sentence."""
    found: set[str] = set()
    for begin, end in spans(text):
        tokens = _TOKEN.findall(text[begin:end])
        found |= {_stem(token) for token in tokens[1:] if token[0].isupper() and not _empty(token)}
    return frozenset(found)


def _stem(token: str) -> str:
    return stem(re.sub(r"['’]s?$", "", token).lower())


def _empty(token: str) -> bool:
    """Whether it is no content word."""
    word = token.lower()
    return stem(word) in STOP or word in _NOT or word in _PRONOUNS or "n't" in word.replace("’", "'")


def said(text: str, known: frozenset[str]) -> Said:
    """Read one sentence; `known` names are names also where they begin it."""
    tokens = _TOKEN.findall(_WHERE.sub(" ", text))
    names: set[str] = set()
    words: set[str] = set()
    near: dict[str, frozenset[str]] = {}
    denied: set[str] = set()
    pronoun = denies = False
    for place, token in enumerate(tokens):
        word = token.lower().replace("’", "'")
        if token[0].isdigit() or word in COUNTS:
            number = COUNTS.get(word) or re.sub(r",(?=\d{3}\b)", "", token)
            beside = (tokens[i] for i in (place - 1, place + 1) if 0 <= i < len(tokens))
            found = {_stem(one) for one in beside if not (one[0].isdigit() or one.lower() in COUNTS or _empty(one))}
            near[number] = near.get(number, frozenset()) | found
        elif word in _NOT or word.endswith("n't"):
            denies = not (word == "no" and place == 0) and tokens[place + 1 : place + 2] != ["only"]
        elif not _empty(token):
            key = _stem(token)
            if key in known or (place and token[0].isupper()):
                names.add(key)
            elif key not in _FRAME:
                words.add(key)
            if denies:
                denied.add(key)
            denies = False
        elif word in _PRONOUNS or (not place and word in _THIS):
            pronoun = pronoun or not names
    return Said(frozenset(names), frozenset(words), near, frozenset(denied), pronoun)


def agreement(sentence: str, question: str, heading: str, text: str, weight: Weight) -> float:
    """How much of a written sentence the best sentence of a passage has, 0 to 1; 0 where a rule above is broken."""
    known = names_in(text) | names_in(heading) | names_in(question) | names_in(sentence)
    one, asked = said(sentence, known), content(question)
    firsts = [(parts[-1], parts[:-1]) for parts in (list(map(_stem, n.split())) for n in _NAME.findall(text))]
    best, above = 0.0, content(heading)
    names = words = denied = frozenset[str]()  # with what a pronoun stands for
    for begin, end in spans(text):
        if ORDERS.search(text[begin:end]):
            continue
        held = said(text[begin:end], known)
        full = frozenset().union(*(first for last, first in firsts if last in held.names))
        names = held.names | full | (names if held.pronoun else frozenset())
        words = held.words | (words if held.pronoun else frozenset())
        denied = held.denied | (denied if held.pronoun else frozenset())
        own = held.all | above
        near = (not beside or beside & own for beside in one.numbers.values())
        named = one.names <= names | above and one.numbers.keys() <= held.numbers.keys()
        alike = one.denied == denied & one.all
        if named and alike and all(near):
            best = max(best, _share(one, asked, own, names | words | above, weight))
    return best


def _share(one: Said, asked: frozenset[str], own: frozenset[str], carried: frozenset[str], weight: Weight) -> float:
    """The share of a sentence's words that are there."""
    if not one.words:
        return float(bool((one.names or one.numbers) and own & asked))
    new, again = one.words - asked, one.words & carried
    if not new and (one.names | one.numbers.keys()) - asked:  # it says the question again, with a name or a number
        return float(bool(again))
    return sum(map(weight, new & own if new else again)) / sum(map(weight, new or one.words))


if TYPE_CHECKING:
    from llmanac.generate.engine import Engine

MODES = ("free", "quote", "extract")
NEAREST = 3  # passages shown with a refusal
TURNS = 3  # earlier questions that a question may go on from
LONGEST = 4000  # characters of a question
_MARK = re.compile(r"\s*\[(\d+(?:\s*,\s*\d+)*)\]")


@dataclass(frozen=True)
class Citation:
    """What an answer cites: `title` is file and lines, `text` the passage; `quote` the sentence, where it is one."""

    number: int
    title: str
    text: str
    passage: Passage
    quote: str = ""


@dataclass(frozen=True)
class FolderAnswer:
    """An answer.

    Attributes:
        refused: whether nothing supports an answer. support: the probability that the folder answers.
        shown: the passages, in the order of their numbers. dropped: sentences that no passage supported.
        margin: by how much a reader's best sentence is more probable than that none answers, in log-odds.
    """

    text: str
    citations: list[Citation] = field(default_factory=list)
    refused: bool = False
    support: float = 0.0
    shown: list[Passage] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    margin: float = np.inf

    @property
    def nearest(self) -> list[dict[str, str]]:
        """Of a refusal, the passages to look at instead."""
        rows = ({"name": p.heading, "signature": p.source, "summary": " ".join(p.text.split())} for p in self.shown)
        return list(rows)[:NEAREST] if self.refused else []


class FolderAssistant:
    """Answers from an index; an `Assistant`, so that `serve` and `chat` take it.

    Args:
        engine: of the model; without one the mode is `extract`. reader: of the mode `quote`; by default the model.
        method, k: of retrieval; threshold: of a refusal, by default that of the weights; quotes: sentences at most.
        budget: tokens of passages in a prompt; longest: tokens of an answer. weights: of the ranker.

    Raises:
        RequestError: a mode that there is not, or that needs a model.
    """

    def __init__(
        self,
        index: FolderIndex,
        engine: Engine | None = None,
        *,
        mode: str | None = None,
        method: str | None = None,
        k: int = 6,
        threshold: float = THRESHOLD,
        quotes: int = 1,
        budget: int = 1024,
        longest: int = 128,
        reader: Reader | None = None,
        weights: Mapping[str, RankerWeights] | None = None,
    ) -> None:
        self.index, self.engine = index, engine
        self.mode = mode or ("quote" if reader else "extract" if engine is None else "free")
        if self.mode not in MODES:
            raise RequestError(f"--mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.mode != "extract" and engine is None and reader is None:
            raise RequestError(f"--mode {self.mode}: a model writes the answer; name one with --model")
        if not 0 <= threshold <= 1:
            raise RequestError(f"--threshold: {threshold} is not between 0 and 1")
        self.method = method or ("bm25" if index.encoder is None else "hybrid")
        self.ranker = Ranker(index, self.method, weights)
        self.k, self.quotes, self.longest = k, quotes, longest
        self.threshold = threshold
        self.model = None if engine is None else PassageReader(engine, RULES, budget=budget, longest=longest)
        self.reader = reader or self.model

    def answer(self, question: str, history: Sequence[str] = ()) -> FolderAnswer:
        """The answer to a question, with the earlier ones of the conversation.

        Raises:
            RequestError: a question without a word, or too long; or a prompt that does not fit the model.
        """
        if not plain_words(question):
            raise RequestError("the question is empty")
        if len(question) > LONGEST:
            raise RequestError(f"messages: a question of {len(question):,} characters; ask in at most {LONGEST:,}")
        meant = [f"{turn[-LONGEST:]} {question}" for turn in history[-TURNS:]]
        if history and self.model is not None and self.mode != "extract":
            meant.append(self.model.rewritten(question, history[-TURNS:]))
        own = self.ranker.asked(question)
        alone = [question] if len(own.words) > 1 or not meant else []  # "and its keeper?" says too little alone
        every = [self.found(one) for one in (*alone, *meant)]
        asked, found, odds = max(every, key=lambda one: self._meant(own, *one[1:]))
        best = sigmoid(odds) if found else 0.0
        shown = [passage for passage, _ in found]
        # a reading with earlier questions, which alone lead to the passage: it has no word of this one
        strange = asked.text != question and own.words and not self._meant(own, found, odds)[0]
        if not found or best < self.threshold or strange:
            return self._refusal(best, shown)
        if self.mode == "free":
            return self._free(asked, best, shown)
        # earlier questions have led to the passages; which sentence answers, this one says
        ranked, margin = self.ranker.quotes(own if own.words else asked, found, odds), np.inf
        if ranked and self.mode == "quote":
            ranked, margin = self._weighed(asked.text, ranked[:CHOICES], best)
        if not ranked or margin < 0:
            return self._refusal(best, shown)
        return self._quoted(ranked[: self.quotes], best, shown, margin)

    def found(self, question: str) -> tuple[Asked, list[tuple[Passage, float]], float]:
        """A question, the `k` best passages with their log-probabilities, and the log-odds that the folder answers."""
        asked = self.ranker.asked(question)
        found, odds = self.ranker.passages(asked)
        return asked, found[: self.k], odds

    def _meant(self, own: Asked, found: Sequence[tuple[Passage, float]], odds: float) -> tuple[bool, float]:
        """How well a reading fits a question, some word of which, or a related one, the best passage must have."""
        held = own.share(content(f"{found[0][0].heading} {found[0][0].text}"), True) if found else 0.0
        return held > 0, odds

    def _weighed(self, question: str, ranked: Sequence[Quote], best: float) -> tuple[list[Quote], float]:
        """The sentences in the order of both probabilities, and the margin of the first."""
        assert self.reader is not None
        *said, none = self.reader.weigh(question, ranked)
        logs = np.array(said) + [quote.score for quote in ranked]
        order = np.argsort(-logs, kind="stable")
        return [ranked[i] for i in order], float(logs.max() - none - np.log1p(-min(best, 1 - 1e-9)))

    def _refusal(self, best: float, shown: Sequence[Passage], dropped: Sequence[str] = ()) -> FolderAnswer:
        return FolderAnswer(REFUSAL, [], True, best, list(shown), list(dropped))

    def _quoted(self, quotes: Sequence[Quote], best: float, shown: list[Passage], margin: float) -> FolderAnswer:
        cited = [
            Citation(
                shown.index(quote.passage) + 1, quote.passage.source, quote.passage.text, quote.passage, quote.text
            )
            for quote in quotes
        ]
        return FolderAnswer(
            "\n".join(f'"{c.quote}" [{c.number}]' for c in cited), cited, False, best, shown, margin=margin
        )

    # with a model that writes

    def _free(self, asked: Asked, best: float, shown: Sequence[Passage]) -> FolderAnswer:
        assert self.engine is not None
        assert self.model is not None
        packed = self.model.pack(shown)
        ids = self.model.prompt_ids(asked.text, packed)
        [made] = self.engine.generate([ids], max_new_tokens=self.longest, stop=["\nQuestion:", "<passage"])
        return self.checked(asked.text, made.text, [passage for passage, _ in packed], best)

    def checked(self, question: str, text: str, shown: Sequence[Passage], best: float = 1.0) -> FolderAnswer:
        """A model's text with only the sentences that a passage supports, each with the number of one that does."""
        kept: list[str] = []
        dropped: list[str] = []
        cited: dict[int, Citation] = {}
        marked = re.sub(r"([.!?])((?:\s*\[[\d,\s]+\])+)", lambda m: f"{m[2].strip()}{m[1]}", text.strip())
        for start, stop in spans(marked):
            row = marked[start:stop]
            named = {int(n) for group in _MARK.findall(row) for n in group.split(",")}
            bare = " ".join(_MARK.sub("", row).split())
            rated = [
                (self._agrees(bare, question, passage), number in named, -number)
                for number, passage in enumerate(shown, 1)
            ]
            able = [one for one in rated if one[0] >= AGREES]
            if not able or bare.rstrip(".") == REFUSAL.rstrip("."):
                dropped.append(bare)
                continue
            number = -max(able, key=lambda one: (one[1], one[0], one[2]))[2]  # what it named, if that supports it
            passage = shown[number - 1]
            kept.append(f"{bare} [{number}]")
            cited[number] = Citation(number, passage.source, passage.text, passage)
        if not kept:
            return self._refusal(best, shown, dropped)
        return FolderAnswer(" ".join(kept), [cited[n] for n in sorted(cited)], False, best, list(shown), dropped)

    def _agrees(self, sentence: str, question: str, passage: Passage) -> float:
        return agreement(sentence, question, passage.heading, passage.text, self.ranker.lexical.weight)
