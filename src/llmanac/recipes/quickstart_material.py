"""What the documentation assistant is made from: entries on both sides of the split, the index, questions, rows.

Rows for training are built as the assistant will work: the training question goes through the same retrieval (over
training modules only), the passages found stand in a random order, and the answer is a line of one of them. Some rows
lack the passage that answers, some ask what the passage leaves open, and all of those are answered by the refusal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.rng import seed_of
from llmanac.data.collect import Corpus
from llmanac.data.sources._docstrings import Entry
from llmanac.recipes.assistant import ASSISTANT, END, PASSAGES, PROMPT_TOKENS, USER, prompt_ids, special_ids
from llmanac.recipes.questions import REFUSAL, Pair, QuestionMaker, entry_passages
from llmanac.recipes.quickstart_index import DocumentationIndex
from llmanac.recipes.quickstart_passages import Passage

CALIBRATION = 600  # questions of each sort that the threshold is read off from
ASSOCIATION = 6000  # training pairs that the word associations are counted over
# what a row is, by share: the answer stands in a passage; nothing is shown; the passage that answers is taken away; and
# the three sorts of unanswerable questions
SHARES = {"read": 0.66, "closed": 0.05, "removed": 0.07, "not stated": 0.12, "unknown name": 0.07, "off topic": 0.03}
# kinds whose lines are hard to find are asked for more often
WEIGHTS = {"what": 1.0, "arguments": 0.7, "returns": 1.6, "raises": 1.6, "default": 0.9, "parameter": 1.2, "which": 0.9}


@dataclass(frozen=True)
class Material:
    """Entries, who is on which side, and the index over all of them (its threshold learned from training modules).

    Attributes:
        train, held_out: numbers of the entries of training and of held-out modules.
        practice: the index over training modules only, for building training rows.
    """

    entries: tuple[Entry, ...]
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    index: DocumentationIndex
    practice: DocumentationIndex
    seed: int

    @classmethod
    def collect(cls, source: Any, corpus: Corpus, *, seed: int = 0) -> Material:
        """Divide a documentation source's entries as its corpus is divided, and build the indexes.

        Args:
            source: the `python-docs` source (anything with `entries()`).

        Raises:
            DataError: a source that has no entries, or a side without any.
        """
        if not hasattr(source, "entries"):
            raise DataError("finetune.pairs: docstrings needs the source python-docs; give a file of pairs instead")
        entries = tuple(source.entries())
        held = {document.group for document in corpus.held_out}
        sides: tuple[list[int], list[int]] = ([], [])
        for number, entry in enumerate(entries):
            sides[entry.module in held].append(number)
        if not sides[0] or not sides[1]:
            raise DataError("the documentation has too few modules to hold one out")
        passages = entry_passages(entries)
        inside = set(sides[0])
        practice = DocumentationIndex([p for p in passages if p.entry in inside])
        material = cls(entries, tuple(sides[0]), tuple(sides[1]), DocumentationIndex(passages), practice, seed)
        material._learn()
        return material

    def _learn(self) -> None:
        """The index's word associations and threshold, from questions about training modules."""
        maker = self.maker(held_out=False, salt=1)
        pairs = maker.answerable(ASSOCIATION)
        self.practice.associate((pair.question, pair.answer) for pair in pairs)
        wishes = [p.question for p in pairs if p.sort in ("which", "what")][:CALIBRATION]
        strange = maker.unanswerable(CALIBRATION, ["unknown name", "off topic"])
        self.practice.calibrate(wishes, [p.question for p in strange])
        self.index.associations, self.index.threshold = self.practice.associations, self.practice.threshold

    def maker(self, *, held_out: bool, salt: int = 0) -> QuestionMaker:
        """A maker of questions about one side, in that side's forms."""
        side, forms = (self.held_out, "held_out") if held_out else (self.train, "training")
        return QuestionMaker(self.entries, side, forms, seed=seed_of(self.seed, salt))  # type: ignore[arg-type]

    def rows(self, tokenizer: Any, count: int, *, limit: int = PROMPT_TOKENS, salt: int = 0) -> Iterator[Row]:
        """`count` training rows `(ids, loss mask)`: the answer and its end carry loss."""
        marks = special_ids(tokenizer)
        for question, passages, answer in self.examples(count, salt=salt):
            prompt = prompt_ids(tokenizer, question, passages, limit=limit)
            said = [*tokenizer.encode(answer), marks[END]]
            ids = np.array([*prompt, *said], np.int64)
            yield ids, np.arange(len(ids)) >= len(prompt)

    def examples(self, count: int, *, salt: int = 0) -> Iterator[tuple[str, list[Passage], str]]:
        """`count` training examples: (question as the model sees it, passages in the order shown, answer)."""
        maker = self.maker(held_out=False, salt=2 + salt)
        rng = random.Random(seed_of(self.seed, "rows", salt))
        answerable = iter(maker.answerable(count * 2 + 64, weights=WEIGHTS))
        for what in rng.choices(list(SHARES), list(SHARES.values()), k=count):
            if what in ("read", "closed", "removed"):
                yield next(e for p in answerable if (e := self._answerable(p, what, rng)) is not None)
            else:
                (pair,) = maker.unanswerable(1, [what])  # type: ignore[list-item]
                found = self.practice.find(pair.question, _how_many(rng))
                yield found.question, self._shown(found.passages, rng), REFUSAL

    def _answerable(self, pair: Pair, what: str, rng: random.Random) -> tuple[str, list[Passage], str] | None:
        k = _how_many(rng)
        found = self.practice.find(pair.question, k)
        if what == "closed":
            return found.question, [], pair.answer
        holds = [n for n in found.passages if self._answers(n, pair)]
        if what == "removed":
            others = [n for n in self.practice.find(pair.question, k + 4).passages if self.practice.passages[n].entry != pair.entry]
            return found.question, self._shown(others[:k], rng), REFUSAL
        if not holds:  # retrieval missed it: nothing that is shown answers the question
            return None
        keep = [holds[0], *[n for n in found.passages if n != holds[0]]][:k]
        return found.question, self._shown(keep, rng), pair.answer

    def _answers(self, number: int, pair: Pair) -> bool:
        passage = self.practice.passages[number]
        return passage.entry == pair.entry and pair.answer in passage.text

    def _shown(self, numbers: Sequence[int], rng: random.Random) -> list[Passage]:
        shown = [self.practice.passages[n] for n in numbers]
        rng.shuffle(shown)
        return shown


Row = tuple[np.ndarray, np.ndarray]


def _how_many(rng: random.Random) -> int:
    return rng.choices([1, 2, PASSAGES], [0.15, 0.25, 0.6])[0]


__all__ = ["ASSISTANT", "USER", "Material", "Row"]
