"""A list of words with their counts, and the candidates for a misspelled one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmanac.core.errors import DataError
from llmanac.core.progress import progress
from llmanac.evaluate import english

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
LONGEST = 24  # letters of a word that is looked up; longer ones are names of things, not words
TWICE_FROM = 6  # letters from which two errors in one word are considered


def plain(word: str) -> str:
    """A word as the list keeps it: lower case, with a straight apostrophe."""
    return word.lower().replace("’", "'")


class Words:
    """Known words.

    Args:
        counts: word -> how often it was seen, lower case.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        for row in (*english.AGREEMENT, *english.CONFUSED, english.PREPOSITIONS, english.FUNCTION):
            for word in row:
                self.counts[word] += 1
        for base in english.IRREGULAR:
            for form in english.verb_forms(base):
                self.counts[form] += 1

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 1) -> Words:
        """The words of texts that were seen at least `least` times.

        Raises:
            DataError: no words.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(plain(word) for word in WORD.findall(text) if len(word) <= LONGEST)
        kept = Counter({word: count for word, count in counts.items() if count >= least})
        if not kept:
            raise DataError("vocabulary: the text holds no word; give a text in the language that is corrected")
        return cls(kept)

    @classmethod
    def of_file(cls, path: str | Path) -> Words:
        """The words of a file or folder: lists of one word a line, or running text. Raises DataError that names it."""
        from llmanac.data.command_problems import CommandProblems
        from llmanac.data.texts import documents, files_of

        return cls.of(document.text for document in documents(files_of([path]), CommandProblems()))

    @classmethod
    def of_documentation(cls) -> Words:
        """The words of this machine's own Python documentation, those seen at least three times."""
        from llmanac.core.spec import make_method

        def texts() -> Iterator[str]:
            with progress("read documentation", unit="texts") as bar:
                for document in make_method("source", "python-docs").documents():
                    yield document.text
                    bar.advance()

        return cls.of(texts(), least=3)

    def __contains__(self, word: object) -> bool:
        return word in self.counts

    def __len__(self) -> int:
        return len(self.counts)

    def near(self, word: str, most: int = 6) -> list[str]:
        """Known words one slip away (a letter wrong, missing, too many, or two exchanged), else two; commonest first.

        Damerau 1964 counts these four slips; two are only considered for words of six letters or more.
        """
        word = plain(word)
        if not 2 <= len(word) <= LONGEST:
            return []
        once = slips(word)
        found = once & self.counts.keys()
        if not found and len(word) >= TWICE_FROM:
            found = {again for slip in once for again in slips(slip) if again in self.counts}
        found.discard(word)
        return sorted(found, key=lambda w: (-self.counts[w], w))[:most]


def slips(word: str) -> set[str]:
    """Every string one slip away from a word."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    gone = {a + b[1:] for a, b in cuts if b}
    exchanged = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    wrong = {a + c + b[1:] for a, b in cuts if b for c in LETTERS}
    added = {a + c + b for a, b in cuts for c in LETTERS}
    return gone | exchanged | wrong | added
