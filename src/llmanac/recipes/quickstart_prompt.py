"""The sheet that the model reads from: lines of passages with marks, so that it can say which line it reads.

    <|doc|>A0 shutil.copyfile(src, dst, *, follow_symlinks=True)|A0
    A1 Copy data from src to dst in the most efficient way possible.|A1
    <|doc|>B0 shutil.copymode(src, dst, *, follow_symlinks=True)|B0
    B1 Copy mode bits from src to dst.|B1
    <|user|>what does shutil.copyfile do<|assistant|>A1 Copy data from src to dst in the most efficient way ...

One letter a documented name, one number a line, 0 for the title. The mark stands on both sides of a line: where a line
ends, a causal model knows what it said, and copies the mark from there; where it begins, the mark leads into the line.
`A?` before a refusal says that A was read and does not state it, `?` alone that nothing shown speaks of it.
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
_MARK = re.compile(r"\s*([A-Z]\d+|[A-Z]?\?)(?:\s+|$)")


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


def question_ids(tokenizer: Any, question: str, *, limit: int | None = None) -> list[int]:
    """A question as a turn, at most `limit` tokens of it."""
    special = special_ids(tokenizer)
    return [special[USER], *list(tokenizer.encode(question))[:limit], special[ASSISTANT]]


def prompt(tokenizer: Any, question: str, sheet: Sheet, *, limit: int) -> tuple[list[int], Sheet]:
    """`(ids, the sheet as far as it is shown)`: at most `limit` tokens, the question at most half of them."""
    asked = question_ids(tokenizer, question, limit=limit // 2)
    shown = sheet.fitted(tokenizer, limit - len(asked))
    return shown.ids(tokenizer) + asked, shown


def completion(mark: str, answer: str) -> str:
    """What the model is to say: the mark of the line it reads, where there is one, then the answer."""
    return f"{mark} {answer}" if mark else answer


def split_completion(text: str) -> tuple[str, str]:
    """`(mark or nothing, answer)` of what the model said; an answer is one line."""
    match = _MARK.match(text)
    mark, rest = (match.group(1), text[match.end() :]) if match else ("", text)
    lines = rest.strip().split("\n")
    return mark, " ".join(lines[0].split("|")[0].split()) if mark else " ".join(lines[0].split())
