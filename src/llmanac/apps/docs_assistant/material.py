"""The assistant's material: the entries on both sides of the split, the index, questions and training rows.

Training rows are built as the assistant will work: a training question goes through the same retrieval (over training
modules only), and the answer is the mark of a line that was found. Half of the rows whose question names its entry
show the passages in random order. Some rows lack the passage that answers, some ask what the passage does not say; the
answer to all of those is the refusal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmanac.apps.docs_assistant.assistant import ANSWER_TOKENS, PASSAGES, PROMPT_TOKENS
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.prompt import Sheet, Turn, check_marks, prompt, query_ids, question_ids, said
from llmanac.apps.docs_assistant.questions import REFUSAL, Pair, QuestionMaker, entry_calls, entry_passages, known_names
from llmanac.apps.docs_assistant.ranking import Found
from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.core.rng import seed_of
from llmanac.data.collect import Corpus
from llmanac.data.sources._docstrings import Entry

CALIBRATION = 600  # questions of each sort that the threshold is calibrated on
ASSOCIATION = 6000  # training pairs that the word associations are counted over
TRIES = 1000  # questions that retrieval may miss, one after the other
FURTHER = 14  # questions about the same passages, at most
SHUFFLED = 0.5  # of the rows whose question names its entry show the passages in any order, not the best first
BARE = 20  # questions of a row without passages
# the kinds of rows: the answer is in a passage; no passage is shown (this trains understanding of the question); the
# passage with the answer is removed; the three sorts of unanswerable questions
SHARES = {"read": 0.66, "bare": 0.14, "removed": 0.05, "not stated": 0.08, "unknown name": 0.05, "off topic": 0.02}
# kinds whose lines are hard to find are more frequent
WEIGHTS = {"what": 1.0, "arguments": 0.7, "returns": 1.2, "raises": 2.2, "default": 0.8, "parameter": 1.3, "which": 1.8}
# most functions do not document errors; in their true proportion, "nothing is stated" would be the best guess
VAIN = {"raises": 0.3, "returns": 0.6, "default": 0.6, "parameter": 0.8}
HARD = ("returns", "raises", "parameter")  # the first of the further questions about the same passages


@dataclass(frozen=True)
class Material:
    """Entries, their side of the split, and the index over all of them (its threshold learned from training modules).

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
        names = source.names() if hasattr(source, "names") else ()
        passages = entry_passages(entries, {name.entry: name.name for name in names if name.entry})
        inside = set(sides[0])
        practice = DocumentationIndex([p for p in passages if p.entry in inside])
        calls = entry_calls(entries, names, source.calls() if hasattr(source, "calls") else {})
        index = DocumentationIndex(passages, names=known_names(entries, names), calls=calls)
        material = cls(entries, tuple(sides[0]), tuple(sides[1]), index, practice, seed)
        material._learn()
        return material

    def _learn(self) -> None:
        """The index's word associations and threshold, from questions about training modules."""
        with progress("index passages", 3, "parts") as bar:
            maker = self.maker(held_out=False, salt=1)
            pairs = maker.answerable(ASSOCIATION)
            bar.advance()
            self.practice.associate((pair.question, pair.answer) for pair in pairs)
            bar.advance()
            wishes = [p.question for p in pairs if p.sort in ("which", "what")][:CALIBRATION]
            unanswerable = maker.unanswerable(CALIBRATION, ["unknown name", "off topic"])
            self.practice.calibrate(wishes, [p.question for p in unanswerable])
            bar.advance()
        self.index.associations, self.index.threshold = self.practice.associations, self.practice.threshold

    def maker(self, *, held_out: bool, salt: int = 0) -> QuestionMaker:
        """A maker of questions about one side, in that side's forms."""
        side, forms = (self.held_out, "held_out") if held_out else (self.train, "training")
        return QuestionMaker(self.entries, side, forms, seed=seed_of(self.seed, salt))  # type: ignore[arg-type]

    def rows(
        self, tokenizer: Any, count: int, *, limit: int = PROMPT_TOKENS, length: int | None = None, salt: int = 0
    ) -> Iterator[Row]:
        """`count` training rows `(ids, loss mask)`: the answers and their ends carry loss.

        Args:
            limit: the longest prompt, in tokens.
            length: the longest row; later questions of an example that would pass it are left out.
        """
        check_marks(tokenizer)
        length = length or limit + ANSWER_TOKENS
        for passages, turns in self.examples(count, salt=salt):
            ids: list[int] = []
            mask: list[bool] = []
            sheet = Sheet()
            for turn in turns:
                asked, entry, query, _ = turn
                if not passages:  # the sheet gives the letters, but is not shown
                    sheet = Sheet.of([self.practice.first_passage(entry)] if entry >= 0 else [])
                if ids or not passages:
                    shown = question_ids(tokenizer, asked, sheet)
                else:
                    shown, sheet = prompt(tokenizer, asked, Sheet.of(passages), limit=limit)
                text = said(tokenizer, sheet, turn) if passages else query_ids(tokenizer, sheet, entry, query)
                if ids and len(ids) + len(shown) + len(text) > length:
                    break
                ids += shown + text
                mask += [False] * len(shown) + [True] * len(text)
            yield np.array(ids, np.int64), np.array(mask)

    def examples(self, count: int, *, salt: int = 0) -> Iterator[Example]:
        """`count` training examples: passages in the order shown, and turns of (question, the entry
        that answers it or -1, its plainest form, answer). The first turn is as a user would ask; further ones ask
        about the same passages, since one reading of them then trains several choices of a line."""
        maker = self.maker(held_out=False, salt=2 + salt)
        rng = random.Random(seed_of(self.seed, "rows", salt))
        answerable = maker.endless(WEIGHTS)
        for what in rng.choices(list(SHARES), list(SHARES.values()), k=count):
            if what == "bare":
                bare = [next(answerable) for _ in range(BARE)]
                yield [], [(self.practice.understood(p.question), p.entry, p.query, REFUSAL) for p in bare]
                continue
            if what in ("read", "removed"):
                tries = (self._answerable(next(answerable), what, rng) for _ in range(TRIES))
                example = next((e for e in tries if e is not None), None)
                if example is None:
                    raise DataError(
                        "retrieval finds none of the documentation's own answers; it is too small to ask about"
                    )
            else:
                (pair,) = maker.unanswerable(1, [what])  # type: ignore[list-item]
                found = self.practice.find(pair.question, _how_many(rng))
                example = self._shown(found.passages, found, rng), [(found.asked, pair.entry, pair.query, REFUSAL)]
            passages, turns = example
            if passages:
                turns += self._further(maker, passages, turns[0], rng)
            yield passages, turns

    def _answerable(self, pair: Pair, what: str, rng: random.Random) -> Example | None:
        k = _how_many(rng)
        found = self.practice.find(pair.question, k if what != "removed" else k + 4)
        if pair.sort == "which" and found.entry >= 0:
            return None  # its words happen to be a name
        if what == "removed":
            if found.entry < 0:
                return None
            others = [n for n in found.passages if self.practice.passages[n].entry != pair.entry][:k]
            return self._shown(others, found, rng), [(found.asked, pair.entry, pair.query, REFUSAL)]
        if not any(answers(self.practice.passages[n], pair) for n in found.passages):
            return None  # retrieval missed it
        return self._shown(found.passages, found, rng), [(found.asked, pair.entry, pair.query, pair.answer)]

    def _further(
        self, maker: QuestionMaker, passages: Sequence[Passage], first: Turn, rng: random.Random
    ) -> Iterator[Turn]:
        """Up to `FURTHER` more questions about what is shown, each asked once: a second answer could be copied."""
        entries = sorted({p.entry for p in passages})
        shown = {p.entry: "\n".join(q.text for q in passages if q.entry == p.entry) for p in passages}
        stated = [f for n in entries for f in maker.about[n] if f.kind != "which" and f.answer in shown[n]]
        stated = [f for f in stated if (f.entry, f.answer) != (first[1], first[3])]
        stated.sort(key=lambda f: rng.random() ** (1 / (WEIGHTS[f.kind] * (3.0 if f.kind in HARD else 1.0))))
        open_ = [(n, subject, kind) for n in entries for kind, subject in maker.open_about[n]]
        open_.sort(key=lambda o: rng.random() ** (1 / VAIN[o[2]]))
        for _ in range(rng.randint(FURTHER // 2, FURTHER)):
            draw = rng.random()
            if draw < 0.1:
                pair = maker.ask(rng.choice(maker.facts[rng.choice(maker.kinds)]))
                if pair.sort == "which" or pair.entry in shown:
                    continue
                pair = replace(pair, answer=REFUSAL)
            elif open_ and draw < 0.35:
                pair = maker.ask_in_vain(*open_.pop())
            elif stated:
                pair = maker.ask(stated.pop())
            else:
                return
            yield self.practice.understood(pair.question), pair.entry, pair.query, pair.answer

    def _shown(self, numbers: Sequence[int], found: Found, rng: random.Random) -> list[Passage]:
        """The passages, in any order where the question names its entry; else their order is all there is to go by."""
        shown = [self.practice.passages[n] for n in numbers]
        if found.entry >= 0 and rng.random() < SHUFFLED:
            rng.shuffle(shown)
        return shown


def answers(passage: Passage, pair: Pair) -> bool:
    """Whether a passage holds the answer of a pair."""
    return passage.entry == pair.entry and pair.answer in passage.text


Example = tuple[list[Passage], list[Turn]]
Row = tuple[np.ndarray, np.ndarray]


def _how_many(rng: random.Random) -> int:
    return rng.choices([1, 2, PASSAGES], [0.35, 0.25, 0.4])[0]
