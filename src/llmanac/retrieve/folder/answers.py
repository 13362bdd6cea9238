"""Answers from a folder of documents, with citations that are checked; the rules:

1. Where no passage holds `threshold` of the question's content words (by weight, see `quotes.py`), the answer is a
   refusal. The number is stated with every answer as `support`.
2. Passages are packed, best first, into a budget of tokens, as data (`reader.py`).
3. `free`: the model writes. Each sentence must name a passage that was shown, or is given the best one, which must
   support both the sentence (`checks.py`) and the question; other sentences are dropped, and where none is left,
   the answer is a refusal. `quote`: the model chooses one of the sentences, and can write nothing else. `extract`: the
   best sentence, without a model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmanac.core.errors import RequestError
from llmanac.metrics._porter import stem
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.folder.checks import AGREES, agreement
from llmanac.retrieve.folder.index import FolderIndex, Found, Passage
from llmanac.retrieve.folder.quotes import Quote, content, quotes, spans, support, without_orders
from llmanac.retrieve.folder.reader import REFUSAL, RULES, PassageReader

if TYPE_CHECKING:
    from llmanac.generate.engine import Engine

MODES = ("free", "quote", "extract")
THRESHOLD = 0.6
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
        refused: whether nothing supports an answer. support: of the question by the best passage, 0 to 1.
        shown: the passages, in the order of their numbers. dropped: sentences that no passage supported.
    """

    text: str
    citations: list[Citation] = field(default_factory=list)
    refused: bool = False
    support: float = 0.0
    shown: list[Passage] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


class FolderAssistant:
    """Answers from an index; an `Assistant`, so that `serve` and `chat` take it.

    Args:
        engine: of the model; without one the mode is `extract`.
        method, k: of retrieval; threshold: of a refusal; budget: tokens of passages in a prompt.
        longest: tokens of an answer.

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
        budget: int = 1024,
        longest: int = 128,
    ) -> None:
        self.index, self.engine = index, engine
        self.mode = mode or ("extract" if engine is None else "free")
        if self.mode not in MODES:
            raise RequestError(f"--mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.mode != "extract" and engine is None:
            raise RequestError(f"--mode {self.mode}: a model writes the answer; name one with --model")
        if not 0 <= threshold <= 1:
            raise RequestError(f"--threshold: {threshold} is not between 0 and 1")
        self.method = method or ("bm25" if index.encoder is None else "hybrid")
        self.k, self.threshold, self.longest = k, threshold, longest
        self.reader = None
        if engine is not None and self.mode != "extract":
            self.reader = PassageReader(engine, RULES, budget=budget, longest=longest)
        self._lexical = index.retriever("bm25")
        self._weights: dict[str, float] = {}

    def weight(self, word: str) -> float:
        """The idf of a stem: that of the most frequent word with this stem in the index."""
        if not self._weights:
            for known in self._lexical.vocabulary:
                value = self._lexical.weight(known)
                key = stem(known) if known.isalpha() else known
                self._weights[key] = min(value, self._weights.get(key, value))
        return self._weights.get(word) or self._lexical.weight("\0")

    def support(self, text: str, passage: Passage) -> float:
        """How much of a text's content words a passage holds, 0 to 1."""
        return support(text, content(f"{passage.heading} {without_orders(passage.text)}"), self.weight)

    def answer(self, question: str, history: Sequence[str] = ()) -> FolderAnswer:
        """The answer to a question; of earlier ones the last is read where this one has hardly a word of its own.

        Raises:
            RequestError: a question without a word, or a prompt that does not fit the model.
        """
        if not plain_words(question):
            raise RequestError("the question is empty")
        if history and len(content(question)) < 2:
            question = f"{history[-1]} {question}"
        found = self.index.retrieve(question, self.k, self.method)
        best = max((self.support(question, one.passage) for one in found), default=0.0)
        if best < self.threshold or not content(question):
            return self._refusal(best, found)
        if self.mode == "free":
            return self._free(question, best, found)
        ranked = quotes(question, found, self.weight)
        if not ranked:
            return self._refusal(best, found)
        quote = ranked[0] if self.reader is None else self.reader.choose(question, found, ranked)
        return self._quoted(quote, best, found)

    def _refusal(self, best: float, found: Sequence[Found], dropped: Sequence[str] = ()) -> FolderAnswer:
        return FolderAnswer(REFUSAL, [], True, best, [one.passage for one in found], list(dropped))

    def _quoted(self, quote: Quote, best: float, found: Sequence[Found]) -> FolderAnswer:
        shown = [one.passage for one in found]
        number = shown.index(quote.passage) + 1
        cited = Citation(number, quote.passage.source, quote.passage.text, quote.passage, quote.text)
        return FolderAnswer(f'"{quote.text}" [{number}]', [cited], False, best, shown)

    # with a model

    def _free(self, question: str, best: float, found: Sequence[Found]) -> FolderAnswer:
        assert self.engine is not None
        assert self.reader is not None
        packed = self.reader.pack(found)
        ids = self.reader.prompt_ids(question, packed)
        [made] = self.engine.generate([ids], max_new_tokens=self.longest, stop=["\nQuestion:", "<passage"])
        return self.checked(question, made.text, [passage for passage, _ in packed], best)

    def checked(self, question: str, text: str, shown: Sequence[Passage], best: float = 1.0) -> FolderAnswer:
        """A model's text with only the sentences that a passage supports, each with the number of one that does."""
        able = {i for i, passage in enumerate(shown, 1) if self.support(question, passage) >= self.threshold}
        kept: list[str] = []
        dropped: list[str] = []
        cited: dict[int, Citation] = {}
        marked = re.sub(r"([.!?])((?:\s*\[[\d,\s]+\])+)", lambda m: f"{m[2].strip()}{m[1]}", text.strip())
        for start, stop in spans(marked):
            row = marked[start:stop]
            named = {int(n) for group in _MARK.findall(row) for n in group.split(",")}
            bare = " ".join(_MARK.sub("", row).split())
            rated = [(self._agrees(bare, question, shown[i - 1]), i) for i in sorted(named & able or able)]
            value, number = max(rated, key=lambda pair: (pair[0], -pair[1]), default=(0.0, 0))
            if value < AGREES and named & able:  # another passage may support what was cited wrongly
                rated = [(self._agrees(bare, question, shown[i - 1]), i) for i in sorted(able)]
                value, number = max(rated, key=lambda pair: (pair[0], -pair[1]))
            if value < AGREES or bare.rstrip(".") == REFUSAL.rstrip("."):
                dropped.append(bare)
                continue
            passage = shown[number - 1]
            kept.append(f"{bare} [{number}]")
            cited[number] = Citation(number, passage.source, passage.text, passage)
        if not kept:
            return FolderAnswer(REFUSAL, [], True, best, list(shown), dropped)
        return FolderAnswer(" ".join(kept), [cited[n] for n in sorted(cited)], False, best, list(shown), dropped)

    def _agrees(self, sentence: str, question: str, passage: Passage) -> float:
        return agreement(sentence, question, passage.heading, passage.text, self.weight)
