"""The sheet that the model reads: lines with marks, so that it can say which line answers.

    <|A|> shutil.copyfileobj(<|a|>, <|b|>, <|c|>=0)<|A|><|1|><|c|>=0<|c|><|1|><|2|> Copy data from <|a|> to <|b|>.<|2|>
    <|B|> shutil.copymode(<|d|>, <|e|>, *, <|f|>=True)<|B|><|3|><|f|>=True<|f|><|3|><|4|> Copy mode bits ...<|4|>
    <|user|> what is<|c|> in<|A|> by default<|assistant|><|default|><|c|><|1|><|end|>

A capital letter is a documented name and the mark of its title, a number is a line, a small letter is a parameter.
Defaults of a signature are lines of their own, and a line about one parameter ends with its letter. The index looks
names up: a name or a parameter in the question is written as its letter, so a small model need not match spellings. The
model says what the question asks for (and of which parameter) and points at the line that answers. A line's mark is
repeated at its end, where the model knows what the line said and can copy the mark. `<|?|>` says that no line answers.
The line is quoted unchanged, so an answer is what the documentation says, to the letter.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmanac.apps.docs_assistant.facts import KINDS, parameters
from llmanac.apps.docs_assistant.forms import form_words
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.core.errors import TokenizerError, nearest

USER, ASSISTANT, END, NOT_SHOWN = "<|user|>", "<|assistant|>", "<|end|>", "<|?|>"
LETTERS = tuple(f"<|{letter}|>" for letter in string.ascii_uppercase[:8])
NUMBERS = tuple(f"<|{number}|>" for number in range(1, 49))
PARAMETERS = tuple(f"<|{letter}|>" for letter in string.ascii_lowercase)
ASKED = {kind: f"<|{kind}|>" for kind in (*KINDS, "nothing")}
MARKS = (*LETTERS, *NUMBERS, NOT_SHOWN)
SPECIAL = (END, USER, ASSISTANT, *ASKED.values(), *MARKS, *PARAMETERS)
REFUSAL = "No line of the documentation was found that answers this."
MOST_DEFAULTS = 6  # of a signature that become lines; a longer list would push its documentation off the sheet
_WORD = re.compile(r"[`'\"]?(?<![\w.])([A-Za-z_]\w*)(?!\w|\.\w)[`'\"]?")
_CALLED_BEFORE = re.compile(r"\b(?:parameter|argument|option|keyword|flag|setting) $")
_CALLED_AFTER = re.compile(r" (?:parameter|argument|option|keyword|flag|setting)\b")


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


Turn = tuple[Asked, int, str, str]  # a question, the entry that answers it or -1, its query, its answer


@dataclass(frozen=True)
class Block:
    """One entry in a prompt: its title, its lines, and the letters of its parameters."""

    entry: int
    title: str
    lines: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """All blocks of a prompt, in their order."""

    blocks: tuple[Block, ...] = ()

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> Sheet:
        """Passages of one entry become one block, in the place of the first of them."""
        titles: dict[int, str] = {}
        lines: dict[int, list[str]] = {}
        for passage in sorted(passages, key=lambda p: not p.first):
            if passage.entry not in titles:
                titles[passage.entry] = passage.title
                lines[passage.entry] = list(stated_defaults(passage.title))
            lines[passage.entry] += passage.lines
        order = list(dict.fromkeys(p.entry for p in passages))[: len(LETTERS)]
        letter = iter(PARAMETERS)
        names = {entry: dict(zip(_parameters(titles[entry]), letter, strict=False)) for entry in order}
        return cls(tuple(Block(entry, titles[entry], tuple(lines[entry]), names[entry]) for entry in order))

    def marked(self) -> Iterator[tuple[str, Block, str]]:
        """`(mark, block, line)` of every title and line, in order; lines past the last number have none."""
        number = iter(NUMBERS)
        for letter, block in zip(LETTERS, self.blocks, strict=False):
            yield letter, block, block.title
            for line, mark in zip(block.lines, number, strict=False):
                yield mark, block, line

    def letter(self, entry: int) -> str | None:
        """The mark of an entry's title; None where it is not shown."""
        return next((mark for mark, block in zip(LETTERS, self.blocks, strict=False) if block.entry == entry), None)

    def mark(self, entry: int, answer: str) -> str | None:
        """The mark of the line of an entry that is, or holds, an answer; None where no line does."""
        found = [(mark, line) for mark, block, line in self.marked() if block.entry == entry]
        whole = next((mark for mark, line in found if line == answer), None)
        return whole or next((mark for mark, line in found if answer in line), None)

    def read(self, mark: str) -> tuple[Block, str] | None:
        """The block and the line of a mark; None where there is none."""
        return next(((block, line) for other, block, line in self.marked() if other == mark), None)

    def fitted(self, tokenizer: Any, room: int) -> Sheet:
        """The sheet cut to `room` tokens: the longest block loses lines from its end, then the last block goes."""
        sizes = [[len(_encoded(tokenizer, line, b.names)) + 3 for line in (b.title, *b.lines)] for b in self.blocks]
        while sizes and (sum(map(sum, sizes)) > room or sum(len(block) - 1 for block in sizes) > len(NUMBERS)):
            longest = max(range(len(sizes)), key=lambda i: sum(sizes[i]) if len(sizes[i]) > 1 else -1)
            (sizes[longest] if len(sizes[longest]) > 1 else sizes).pop()
        kept = zip(self.blocks, sizes, strict=False)
        return Sheet(tuple(replace(b, lines=b.lines[: len(size) - 1]) for b, size in kept))

    def ids(self, tokenizer: Any) -> list[int]:
        """The sheet as token ids; a special token spelled out in a line stays plain text."""
        special = tokenizer.special_tokens
        letters = {special[letter] for letter in PARAMETERS}
        out: list[int] = []
        for mark, block, line in self.marked():
            text = _encoded(tokenizer, line, block.names)
            about = letters.intersection(text) if line is not block.title else set()
            out += [special[mark], *text, *(about if len(about) == 1 else ()), special[mark]]
        return out


@functools.lru_cache(maxsize=20_000)
def _parameters(title: str) -> dict[str, str | None]:
    """The parameters that a title states, with their defaults: `f(a, b=1)` -> {"a": None, "b": "1"}."""
    _, bracket, rest = title.partition("(")
    return parameters(bracket + rest) if bracket else {}


def stated_defaults(title: str) -> tuple[str, ...]:
    """`f(a, b=1)` -> ("b=1",): the defaults that a title states, as lines."""
    found = _parameters(title).items()
    return tuple(f"{name}={value}" for name, value in found if value is not None)[:MOST_DEFAULTS]


@functools.lru_cache(maxsize=20_000)
def _mention(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds names in a line; a single letter only where it is set off as a name."""
    long = sorted((re.escape(n) for n in names if len(n) > 1), key=len, reverse=True)
    short = [re.escape(n) for n in names if len(n) == 1]
    parts = [rf"(?<![\w.])(?:{'|'.join(long)})(?!\w)"] if long else []
    if short:
        one = "|".join(short)
        parts.append(rf"(?<=[`'\"*(])(?:{one})(?=[`'\"*,=)])|(?<=, )(?:{one})(?=[,=)])|^(?:{one})(?=[:,=])")
    return re.compile("|".join(parts))


def _encoded(tokenizer: Any, line: str, names: Mapping[str, str]) -> list[int]:
    """A line as token ids, its parameters as their letters."""
    if not names:
        return list(tokenizer.encode(f" {line}"))
    out: list[int] = []
    at = 0
    for match in _mention(tuple(names)).finditer(line):
        out += _piece(tokenizer, line[at : match.start()], first=not at)
        out.append(tokenizer.special_tokens[names[match.group()]])
        at = match.end()
    return out + _piece(tokenizer, line[at:], first=not at)


def _piece(tokenizer: Any, text: str, *, first: bool = False) -> list[int]:
    """Text next to a special token: before one it has no space at its end."""
    text = (f" {text}" if first else text).rstrip()
    return list(tokenizer.encode(text)) if text else []


def check_marks(tokenizer: Any) -> None:
    """Raise TokenizerError that names the first special token of a sheet which a tokenizer lacks."""
    known = tokenizer.special_tokens
    for name in SPECIAL:
        if name not in known:
            raise TokenizerError(
                f"the tokenizer has no {name!r}{nearest(name, known)}; train it with the assistant's marks"
            )


def said_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """`(marks, all that the model may say)` as token ids.

    Raises:
        TokenizerError: the tokenizer lacks one of them.
    """
    check_marks(tokenizer)
    marks = [tokenizer.special_tokens[token] for token in MARKS]
    return marks, [*marks, *(tokenizer.special_tokens[token] for token in (*ASKED.values(), *PARAMETERS))]


def question_ids(tokenizer: Any, asked: Asked, sheet: Sheet, *, limit: int | None = None) -> list[int]:
    """A question as a turn, at most `limit` tokens of its text; its name and parameter as letters, where shown."""
    special = tokenizer.special_tokens
    letter = sheet.letter(asked.entry) if asked.entry >= 0 else None
    if letter is None:
        text = list(tokenizer.encode(f" {asked.text}"))
    else:
        names = next(block.names for block in sheet.blocks if block.entry == asked.entry)
        parts = [asked.before, letter, asked.after]
        if found := _subject((asked.before, asked.after), names):
            side, start, stop, name = found
            part = parts[2 * side]
            parts[2 * side : 2 * side + 1] = [part[:start], names[name], part[stop:]]
        text = []
        for number, part in enumerate(parts):  # letters stand at the odd places
            text += [special[part]] if number % 2 else _piece(tokenizer, part, first=number == 0)
    return [special[USER], *text[:limit], special[ASSISTANT]]


def _subject(sides: Sequence[str], names: Mapping[str, str]) -> tuple[int, int, int, str] | None:
    """`(side, start, stop, name)` of the parameter that a question asks about, if any.

    A word that is quoted, or said to be a parameter, comes first; a word that questions are made of ("value", "type")
    counts only then.
    """
    common = form_words()
    found: list[tuple[int, int, tuple[int, int, int, str]]] = []
    for side, text in enumerate(sides):
        for match in _WORD.finditer(text):
            word = match.group(1)
            if word not in names:
                continue
            marks = 2 * (match.group() != word) + bool(
                _CALLED_BEFORE.search(text, 0, match.start()) or _CALLED_AFTER.match(text, match.end())
            )
            if marks or (word.lower() not in common and len(word) > 1):
                found.append((marks, len(word), (side, *match.span(), word)))
    return max(found)[2] if found else None


def prompt(tokenizer: Any, asked: Asked, sheet: Sheet, *, limit: int) -> tuple[list[int], Sheet]:
    """`(ids, the sheet as far as it is shown)`: at most `limit` tokens, the question about half of them at most."""
    question = question_ids(tokenizer, asked, sheet, limit=limit // 2)
    shown = sheet.fitted(tokenizer, limit - len(question))
    if len(shown.blocks) < len(sheet.blocks):  # the block of the name may have been cut
        question = question_ids(tokenizer, asked, shown, limit=limit // 2)
        shown = shown.fitted(tokenizer, limit - len(question))
    return shown.ids(tokenizer) + question, shown


def query_ids(tokenizer: Any, sheet: Sheet, entry: int, query: str) -> list[int]:
    """The query as token ids: the question in its plainest form.

    Args:
        entry: the entry of the question, or -1.
        query: a kind of fact and, with a space between, a parameter (`default length`).
    """
    kind, _, subject = query.partition(" ")
    letter = next((b.names.get(subject) for b in sheet.blocks if b.entry == entry), None)
    return [tokenizer.special_tokens[token] for token in (ASKED[kind], letter) if token]


def completion_ids(tokenizer: Any, sheet: Sheet, entry: int, query: str, mark: str | None) -> list[int]:
    """The completion: the query, the mark of the line that answers (None: no line does), the end."""
    special = tokenizer.special_tokens
    return [*query_ids(tokenizer, sheet, entry, query), special[mark or NOT_SHOWN], special[END]]


def said(tokenizer: Any, sheet: Sheet, turn: Turn) -> list[int]:
    """The completion; a line that did not fit on the sheet has no mark."""
    _, entry, query, answer = turn
    return completion_ids(tokenizer, sheet, entry, query, None if answer == REFUSAL else sheet.mark(entry, answer))


def split_completion(tokenizer: Any, ids: Sequence[int], sheet: Sheet) -> tuple[str, str | None]:
    """`(query, mark)` of what the model said: the first mark, and the query before it; None where it gave none."""
    known = {tokenizer.special_tokens[token]: token for token in SPECIAL}
    said = [known.get(token, "") for token in ids]
    at = next((i for i, token in enumerate(said) if token in MARKS), len(said))
    kinds = {token: kind for kind, token in ASKED.items()}
    names = {letter: name for block in sheet.blocks for name, letter in block.names.items()}
    words = (kinds.get(token) or names.get(token) for token in said[:at])
    return " ".join(word for word in words if word), said[at] if at < len(said) else None
