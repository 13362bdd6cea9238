"""The sheet that the model reads from: lines of passages with marks, so that it can say which line it reads.

    <|doc|>A0 shutil.copyfile(src, dst, *, follow_symlinks=True)|A0
    A1 Copy data from src to dst in the most efficient way possible.|A1
    <|doc|>B0 shutil.copymode(src, dst, *, follow_symlinks=True)|B0
    B1 Copy mode bits from src to dst.|B1
    <|user|> what does |B| do<|assistant|> what|B1 Copy mode bits from src to dst.|<|end|>

One letter a documented name, one number a line, 0 for the title. A name that the index knows is written as the letter
of its block: looking names up is the index's part, understanding and reading are the model's. Each step of an answer is
one that a small causal model takes easily: it says what is asked (and of which parameter), copies the letter, or finds
it where none is given; where a line ends, the model knows what the line said, and copies its number from there; where
the line begins, the mark leads into it. `|A?` alone says that A does not state it, `|?` that nothing shown does.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmanac.core.errors import TokenizerError, nearest
from llmanac.recipes.quickstart_passages import Passage

DOC, USER, ASSISTANT, END = "<|doc|>", "<|user|>", "<|assistant|>", "<|end|>"
LETTERS = string.ascii_uppercase
NOT_SHOWN = "?"
REFUSAL = "The documentation does not say."
_MARK = re.compile(r"([^|\n]*)\|([A-Z]\d+|[A-Z]?\?)(?:\s+|\||$)")


@dataclass(frozen=True)
class Asked:
    """A question, taken apart where it names an entry of the index.

    Attributes:
        before, after: the question's text around the name; all of it in `before` where it names none.
        name: the name in full, or nothing.
        entry: the entry of that name, or -1.
    """

    before: str
    name: str = ""
    after: str = ""
    entry: int = -1

    @property
    def text(self) -> str:
        """The question with the name in full."""
        return self.before + self.name + self.after

    def shown(self, sheet: Sheet) -> str:
        """The question as the model sees it: the name is the letter of its block, where that is on the sheet."""
        letter = sheet.letter(self.entry)
        return f" {self.before}|{letter}|{self.after}" if letter else f" {self.text}"


@dataclass(frozen=True)
class Block:
    """What is shown of one entry: its title and lines. Line n has the number n, the title 0."""

    entry: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """Everything that is shown, in the order it is shown in."""

    blocks: tuple[Block, ...] = ()

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> Sheet:
        """Passages of one entry become one block, which stands where the first of them stood."""
        lines: dict[int, list[str]] = {}
        for passage in sorted(passages, key=lambda p: not p.first):
            lines.setdefault(passage.entry, [passage.title]).extend(passage.lines)
        order = list(dict.fromkeys(p.entry for p in passages))
        return cls(tuple(Block(entry, tuple(lines[entry])) for entry in order[: len(LETTERS)]))

    def marked(self) -> list[list[tuple[str, str]]]:
        """`(mark, line)` of every line, by block."""
        return [
            [(f"{letter}{number}", line) for number, line in enumerate(block.lines)]
            for letter, block in zip(LETTERS, self.blocks, strict=False)
        ]

    def letter(self, entry: int) -> str:
        """The letter of an entry's block; empty where it is not shown."""
        return next((letter for letter, b in zip(LETTERS, self.blocks, strict=False) if b.entry == entry), "")

    def mark(self, entry: int, answer: str) -> str | None:
        """The mark of the line of an entry that is, or holds, an answer; None where no line does."""
        found = [
            (m, line) for i, block in enumerate(self.marked()) if self.blocks[i].entry == entry for m, line in block
        ]
        whole = next((m for m, line in found if line == answer), None)
        return whole or next((m for m, line in found if answer in line), None)

    def read(self, mark: str) -> tuple[Block, str] | None:
        """The block and the line that a mark stands for; None where it stands for none."""
        if not re.fullmatch(r"[A-Z]\d+", mark):
            return None
        block = self.blocks[LETTERS.index(mark[0])] if LETTERS.index(mark[0]) < len(self.blocks) else None
        number = int(mark[1:])
        return (block, block.lines[number]) if block and number < len(block.lines) else None

    def fitted(self, tokenizer: Any, room: int) -> Sheet:
        """The sheet cut to `room` tokens: the longest block loses lines from its end, then the last block goes."""
        sizes = [[len(tokenizer.encode(_shown(m, line))) for m, line in block] for block in self.marked()]
        blocks = list(self.blocks)

        def total() -> int:
            return sum(map(sum, sizes)) + len(sizes)

        while blocks and total() > room:
            longest = max(range(len(sizes)), key=lambda i: sum(sizes[i]) if len(sizes[i]) > 1 else -1)
            if len(sizes[longest]) > 1:
                sizes[longest].pop()
                blocks[longest] = replace(blocks[longest], lines=blocks[longest].lines[:-1])
            else:
                sizes.pop()
                blocks.pop()
        return Sheet(tuple(blocks))

    def ids(self, tokenizer: Any) -> list[int]:
        """The sheet as token ids; a special token spelled out in a line stays plain text."""
        start = special_ids(tokenizer)[DOC]
        out: list[int] = []
        for block in self.marked():
            out.append(start)
            for mark, line in block:
                out += tokenizer.encode(_shown(mark, line))
        return out


def _shown(mark: str, line: str) -> str:
    return f"{mark} {line}|{mark}\n"


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of the four special tokens of a prompt. Raises TokenizerError that names the one which is missing."""
    known = tokenizer.special_tokens
    for name in (DOC, USER, ASSISTANT, END):
        if name not in known:
            raise TokenizerError(
                f"the tokenizer has no {name!r}{nearest(name, known)}; train it with the assistant's marks"
            )
    return {name: known[name] for name in (DOC, USER, ASSISTANT, END)}


def question_ids(tokenizer: Any, asked: Asked, sheet: Sheet, *, limit: int | None = None) -> list[int]:
    """A question as a turn, at most `limit` tokens of it."""
    special = special_ids(tokenizer)
    return [special[USER], *list(tokenizer.encode(asked.shown(sheet)))[:limit], special[ASSISTANT]]


def prompt(tokenizer: Any, asked: Asked, sheet: Sheet, *, limit: int) -> tuple[list[int], Sheet]:
    """`(ids, the sheet as far as it is shown)`: at most `limit` tokens, the question at most half of them."""
    question = question_ids(tokenizer, asked, sheet, limit=limit // 2)
    shown = sheet.fitted(tokenizer, limit - len(question))
    if len(shown.blocks) < len(sheet.blocks):  # the name's own block may have gone
        question = question_ids(tokenizer, asked, shown, limit=limit // 2)
        shown = shown.fitted(tokenizer, limit - len(question))
    return shown.ids(tokenizer) + question, shown


def completion(query: str, mark: str, answer: str = "") -> str:
    """What the model is to say: the question in its plainest form, the mark of the line it reads, and the line.

    A mark with a question mark says all there is to say; so does any mark in a further question of a training row.
    """
    return f" {query}|{mark} {answer}|" if answer else f" {query}|{mark}|"


def split_completion(text: str) -> tuple[str, str, str]:
    """`(query, mark, answer)` of what the model said, the first two empty where it gave none; an answer is one line."""
    match = _MARK.match(text)
    query, mark = (match.group(1).strip(), match.group(2)) if match else ("", "")
    line = (text[match.end() :] if match else text).strip().partition("\n")[0]
    answer = " ".join((line.partition("|")[0] if mark else line).split())
    return query, mark, REFUSAL if mark.endswith(NOT_SHOWN) else answer
