"""Questions about a folder of documents: those that it yields by itself, and those that people asked."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmanac.core.errors import DataError
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.retrieve._words import content
from llmanac.retrieve.folder.index import FolderIndex, Passage
from llmanac.retrieve.folder.quotes import spans, statements
from llmanac.retrieve.folder.ranker import PRONOUN, WANTED, begins

NAMED, TYPO, ACROSS = 0.6, 0.15, 0.5  # shares of the questions
LEFT_OUT, REPLACED = (0.0, 0.5), (0.0, 0.4)  # shares of a sentence's words: of each question another one
SORTS = ("heading", "summary", "removed", "cloze", "cloze")
FEWEST = 4  # words of content of a sentence that is asked for


@dataclass(frozen=True)
class FolderQuestion:
    """A question, what it was made of, and the texts of which one is in an answer; None and none where nothing answers.

    Attributes:
        names: those of the headings below which the answer is, where a person asked.
    """

    text: str
    passage: Passage | None
    sort: str
    golds: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def gold(self) -> str:
        """The text that answers, of several the first."""
        return self.golds[0]

    def related(self, passage: Passage) -> bool:
        """Whether a passage is of the same file, or answers as well."""
        return self.passage is not None and (passage.document == self.passage.document or self.answers(passage))

    def answers(self, passage: Passage) -> bool:
        """Whether a passage, as it is in the folder, answers."""
        if self.passage is None or (self.names and not set(_names(passage)) & set(self.names)):
            return False
        if self.sort == "heading":
            return passage.document == self.passage.document and passage.heading == self.passage.heading
        text = " ".join(passage.text.split())
        return passage == self.passage or any(gold in text for gold in self.golds)

    def said_by(self, sentence: str) -> bool:
        """Whether a sentence answers."""
        return any(gold in sentence or (sentence in gold and 2 * len(sentence) >= len(gold)) for gold in self.golds)


def read_questions(path: str | Path, index: FolderIndex) -> list[FolderQuestion]:
    """Questions that people asked about a folder: a table of rows (`docs/retrieve.md`).

    Raises:
        DataError: a line that is none.
    """
    known, out = dict[str, list[Passage]](), list[FolderQuestion]()
    for passage in index.passages():
        for name in _names(passage):
            known.setdefault(name, []).append(passage)
    for found in table_rows(Path(path), CommandProblems()):
        row = found.values
        try:
            text = " ".join([*row.get("history", [])[-1:], row["question"]])
            names, golds = (tuple(" ".join(one.split()) for one in row[key]) for key in ("entries", "answers"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}:{found.line}: no question with entries and answers ({error})") from None
        there = [passage for name in names for passage in known.get(name, [])]
        holds = [p for p in there if any(gold in " ".join(p.text.split()) for gold in golds)]
        if there or not names:  # else the folder does not have it
            out.append(FolderQuestion(text, next(iter(holds or there), None), "asked", golds, names))
    return out


def _names(passage: Passage) -> list[str]:
    """The two words that a passage's heading begins with: a name, and before it its sort, or after it another one."""
    return re.split(r"[ (]", passage.heading.rpartition(" > ")[2], maxsplit=2)[:2]


def questions_of(
    index: FolderIndex, count: int, seed: int = 0, use: Sequence[int] | None = None
) -> list[FolderQuestion]:
    """Questions about passages that are drawn at random, of those whose numbers are in `use`.

    Raises:
        DataError: the folder yields too few.
    """
    rng, out = random.Random(seed), list[FolderQuestion]()
    for _ in range(10 * count):
        passage, sort = index[rng.choice(use) if use else rng.randrange(len(index))], rng.choice(SORTS)
        name = _name(passage)
        rows = (" ".join(passage.text[a:b].split()) for a, b in statements(passage.text))
        said = [row for row in rows if len(content(row)) >= FEWEST]
        if not said or (sort != "cloze" and not (begins(passage) and content(name))):
            continue
        gold = rng.choice(said) if sort == "cloze" else said[0]
        if sort == "cloze":
            text = asked_of(passage, gold, index, rng)
        else:
            text = _slipped(name, rng) if sort == "heading" else _roughened(gold, index, rng)
        out.append(FolderQuestion(text, passage, sort, (gold,)))
        if len(out) == count:
            return out
    raise DataError(f"{index.place}: the folder yields {len(out)} questions of {count}; give more text, or --questions")


def asked_of(passage: Passage, sentence: str, index: FolderIndex, rng: random.Random) -> str:
    """A cloze of a passage's sentence."""
    text, around = _roughened(sentence, index, rng), passage.text.split()
    if PRONOUN.match(sentence):  # what it stands for is in the sentences before
        around = passage.text.partition(sentence[:20])[0].split()[-12:] or around
    if rng.random() < ACROSS or PRONOUN.match(sentence):
        text = f"{text} {' '.join(rng.sample(around, min(len(around), rng.randint(1, 6))))}"
    fitting = [word for word, (_, needed) in zip(("how many", "who"), WANTED, strict=True) if needed.search(sentence)]
    text = f"{rng.choice(fitting or ['what'])} {text}"
    return f"{_slipped(_name(passage), rng)} {text}" if rng.random() < NAMED else text


def _name(passage: Passage) -> str:
    return passage.heading.rpartition(" > ")[2].partition("(")[0]


def _slipped(name: str, rng: random.Random) -> str:
    """A name, at times with two letters swapped."""
    if len(name) < 5 or rng.random() >= TYPO:
        return name
    i = rng.randrange(1, len(name) - 1)
    return name[:i] + name[i + 1] + name[i] + name[i + 2 :]


def _roughened(text: str, index: FolderIndex, rng: random.Random) -> str:
    """A sentence with words left out, and some replaced by those of another passage."""
    other = index[rng.randrange(len(index))].text.split() or [""]
    lost, replaced = rng.uniform(*LEFT_OUT), rng.uniform(*REPLACED)
    kept = (word for word in text.split() if rng.random() >= lost)
    return " ".join(rng.choice(other) if rng.random() < replaced else word for word in kept)


def without(passage: Passage, sentence: str) -> Passage:
    """A passage without a sentence."""
    rows = [passage.text[a:b] for a, b in spans(passage.text)]
    return replace(passage, text="\n\n".join(row for row in rows if " ".join(row.split()) != sentence))
