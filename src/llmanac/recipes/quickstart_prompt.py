"""The sheet that the model reads from: lines of passages with marks, so that it can say which line it reads.

    <|doc|>shutil.copyfile|A
    A0 shutil.copyfile(src, dst, *, follow_symlinks=True)|A0
    A1 Copy data from src to dst in the most efficient way possible.|A1
    <|doc|>shutil.copymode|B
    B0 shutil.copymode(src, dst, *, follow_symlinks=True)|B0
    B1 Copy mode bits from src to dst.|B1
    <|user|>what does shutil.copymode do<|assistant|>what shutil.copymode|B1 Copy mode bits ...|<|end|>

One letter a documented name, one number a line, 0 for the title. Each step of an answer is one that a small causal
model takes easily: the question is said in its plainest form (what is asked, of which name); the header leads from the
name to the letter; where a line ends, the model knows what the line said, and copies its number from there; where the
line begins, the mark leads into it. `|A?` before a refusal says that A was read and does not state it, `|?` that
nothing shown speaks of it. A space stands before every name (not shown above): its tokens are then always the same.
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
_MARK = re.compile(r"([^|\n]*)\|([A-Z]\d+|[A-Z]?\?)(?:\s+|$)")


@dataclass(frozen=True)
class Block:
    """What is shown of one entry: its name, title and lines. Line n has the number n, the title 0."""

    entry: int
    name: str
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
        names = {p.entry: p.shown_name for p in passages}  # in the order of first appearance
        return cls(tuple(Block(e, name, tuple(lines[e])) for e, name in list(names.items())[: len(LETTERS)]))

    def marked(self) -> list[list[tuple[str, str]]]:
        """`(mark, line)` of every line, by block."""
        return [
            [(f"{letter}{number}", line) for number, line in enumerate(block.lines)]
            for letter, block in zip(LETTERS, self.blocks, strict=False)
        ]

    def headers(self) -> list[str]:
        """The line above each block, which leads from its name to its letter."""
        return [f" {block.name}|{letter}\n" for letter, block in zip(LETTERS, self.blocks, strict=False)]

    def mark(self, entry: int, answer: str) -> str | None:
        """The mark of the line of an entry that is, or holds, an answer; None where no line does."""
        found = [
            (m, line) for i, block in enumerate(self.marked()) if self.blocks[i].entry == entry for m, line in block
        ]
        whole = next((m for m, line in found if line == answer), None)
        return whole or next((m for m, line in found if answer in line), None)

    def silent(self, entry: int) -> str:
        """The mark before a refusal: `A?` where the entry is shown, `?` where it is not."""
        shown = next((i for i, block in enumerate(self.blocks) if block.entry == entry), None)
        return NOT_SHOWN if shown is None else LETTERS[shown] + NOT_SHOWN

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
        heads = [1 + len(tokenizer.encode(head)) for head in self.headers()]
        blocks = list(self.blocks)

        def total() -> int:
            return sum(map(sum, sizes)) + sum(heads[: len(sizes)])

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
        for head, block in zip(self.headers(), self.marked(), strict=True):
            out += [start, *tokenizer.encode(head)]
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


def question_ids(tokenizer: Any, question: str, *, limit: int | None = None) -> list[int]:
    """A question as a turn, at most `limit` tokens of it."""
    special = special_ids(tokenizer)
    return [special[USER], *list(tokenizer.encode(f" {question.lstrip()}"))[:limit], special[ASSISTANT]]


def prompt(tokenizer: Any, question: str, sheet: Sheet, *, limit: int) -> tuple[list[int], Sheet]:
    """`(ids, the sheet as far as it is shown)`: at most `limit` tokens, the question at most half of them."""
    asked = question_ids(tokenizer, question, limit=limit // 2)
    shown = sheet.fitted(tokenizer, limit - len(asked))
    return shown.ids(tokenizer) + asked, shown


def completion(query: str, mark: str, answer: str) -> str:
    """What the model is to say: the question in its plainest form, the mark of the line it reads, and the answer."""
    return f" {query}|{mark} {answer}|"


def split_completion(text: str) -> tuple[str, str, str]:
    """`(query, mark, answer)` of what the model said, the first two empty where it gave none; an answer is one line."""
    match = _MARK.match(text)
    query, mark = (match.group(1).strip(), match.group(2)) if match else ("", "")
    line = (text[match.end() :] if match else text).strip().partition("\n")[0]
    return query, mark, " ".join((line.partition("|")[0] if mark else line).split())
