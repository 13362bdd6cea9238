"""Faults in rows: chats, prompts with completions, texts, pairs of answers; and `input_ids` with `labels`."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, TokenizerError, shown
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.recipes.chat_rows import OTHER_FORMS, other_form
from llmanac.recipes.linting.weights import Fields, LintTable
from llmanac.recipes.verifying.sides import tried

COLUMNS = ("text", "prompt", "completion", "chosen", "rejected")
LISTS = ("messages", "conversations")
ROLES = {"system", "user", "assistant", "tool", "function", "developer", "ipython", "environment", "observation"}
CONTROL = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|<\|assistant\|>|<\|user\|>|<\|eot_id\|>"
)
BEGINS = ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>")
RENDERED = 200  # conversations that the chat template is tried on
SEEN = 24  # characters of a message that its rendering must hold


@dataclass
class TextRows(LintTable):
    """Rows with what reads them, where it is known.

    Attributes:
        longest: tokens of a row that are kept; held: texts of rows that are held out.
    """

    tokenizer: Any = None
    longest: int | None = None
    held: set[str] = field(default_factory=set)

    @cached_property
    def chats(self) -> list[tuple[int, list[Mapping[str, Any]]]]:
        """The conversations, by line."""
        found = ((line, messages_of(values)) for line, values in self.rows)
        return [(line, messages) for line, messages in found if messages]

    def texts(self, *names: str) -> list[tuple[int, str]]:
        """Texts of columns, by line."""
        every = ((line, values.get(name)) for line, values in self.rows for name in names)
        return [(line, text) for line, text in every if isinstance(text, str)]


def opened(path: Path, tokenizer: Any, longest: int | None, held_out: str | None) -> TextRows:
    """The rows of a file. Raises DataError for one that cannot be read, and for a file without any."""
    found = [(row.line, row.values) for row in table_rows(path, CommandProblems(advice="fix or drop it"))]
    if not found:
        raise DataError(f"{path}: holds no rows")
    others = [] if held_out is None else table_rows(Path(held_out), CommandProblems(advice="fix or drop it"))
    return TextRows(path, found, tokenizer, longest, {said(row.values) for row in others} - {""})


def messages_of(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a row of any form, with the chosen answer; none where it is of plain texts."""
    given = values
    if isinstance(values.get("chosen"), list):
        before = values.get("prompt")
        given = {"messages": [*(before if isinstance(before, list) else ()), *values["chosen"]]}
    elif not isinstance(values.get("messages"), list) and not isinstance(values.get("prompt"), list):
        try:
            given = other_form(values) or {}
        except DataError:  # reading it says why
            return []
    parts = [given["messages"]] if given.get("messages") else [given.get("prompt"), given.get("completion")]
    return [one for part in parts if isinstance(part, list) for one in part if isinstance(one, Mapping)]


def said(values: Mapping[str, Any]) -> str:
    """All that a row says, without case and white space: what makes two rows the same."""
    texts = [f"{one.get('role')} {one.get('content')}" for one in messages_of(values)]
    texts = texts or [str(values.get(name) or "") for name in COLUMNS]
    return " ".join(" ".join(texts).casefold().split())


def _unreadable(rows: TextRows) -> Fields:
    wrong = {line: what for line, values in rows.rows if (what := _amiss(values))}
    return rows.at(list(wrong), what=next(iter(wrong.values()), None))


def _amiss(values: Mapping[str, Any]) -> str | None:
    """Why no trainer reads a row; None where one may."""
    given = {name: value for name in (*COLUMNS, *LISTS, *OTHER_FORMS) if (value := values.get(name)) is not None}
    if not given:
        return f"has none of the fields that are read, but {', '.join(sorted(map(str, values))) or 'none'}"
    for name, value in given.items():
        messages = isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value)
        if not messages and (name in LISTS or (name in COLUMNS and not isinstance(value, str))):
            return f"{name}: a {'' if name in LISTS else 'text or a '}list of messages is expected, not {shown(value)}"
    return None


def _form(values: Mapping[str, Any]) -> str:
    if "chosen" in values or "rejected" in values:
        return "pairs of answers"
    if messages_of(values):
        return "chats"
    return "texts" if values.get("text") is not None and "completion" not in values else "prompts with completions"


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def _mixed(rows: TextRows) -> Fields:
    seen: dict[str, int] = {}
    for line, values in rows.rows:
        if not _amiss(values):
            seen.setdefault(_form(values), line)
    forms = ", ".join(f"{form} from line {line}" for form, line in seen.items())
    return [{"where": rows.path, "forms": forms}] if len(seen) > 1 else []


def _no_answer(rows: TextRows) -> Fields:
    empty = [line for line, text in rows.texts("completion") if not text.strip()]
    prompts = [line for line, values in rows.rows if _alone(values)]
    if any("completion" in values for _, values in rows.rows):  # else all are prompts, to be answered
        empty += prompts
    for line, messages in rows.chats:
        answers = [one for one in messages if one.get("role") == "assistant"]
        none = not answers and line not in prompts and all(str(one.get("role")) in ROLES for one in messages)
        if none or any(not one.get("tool_calls") and not _text(one).strip() for one in answers):
            empty.append(line)
    return rows.at(sorted(set(empty)))


def _alone(values: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt and nothing that answers it."""
    return {name for name in (*COLUMNS, *LISTS) if values.get(name)} == {"prompt"}


def _role(rows: TextRows) -> Fields:
    wrong = {line: one.get("role") for line, messages in rows.chats for one in messages
             if str(one.get("role")) not in ROLES}  # fmt: skip
    return rows.at(list(wrong), role=next(iter(wrong.values()), None))


def _dropped(rows: TextRows) -> Fields:
    if rows.tokenizer is None or rows.tokenizer.chat_template is None:
        return
    lost: dict[str, list[int]] = {}
    for line, messages in rows.chats[:RENDERED]:
        try:
            text = rows.tokenizer.render_chat(messages)
        except TokenizerError as error:
            lost.setdefault(f"refuses the conversation ({str(error)[:120]})", []).append(line)
            continue
        for one in messages:
            if _text(one).strip()[:SEEN].strip() not in text:
                lost.setdefault(f"leaves out the {one.get('role')} turn; say it in another", []).append(line)
    for what, lines in lost.items():
        yield from rows.at(lines, what=what)


def _no_template(rows: TextRows) -> Fields:
    without = rows.tokenizer is not None and rows.tokenizer.chat_template is None
    return rows.at([line for line, _ in rows.chats] if without else [])


def _long(rows: TextRows) -> Fields:
    if rows.tokenizer is None or rows.longest is None:
        return []
    sizes = ((line, _size(rows.tokenizer, values)) for line, values in rows.rows)
    return rows.at([line for line, size in sizes if size > (rows.longest or 0)], longest=rows.longest)


def _size(tokenizer: Any, values: Mapping[str, Any]) -> int:
    """Tokens of a row as training reads it; 0 where the template refuses it, which another rule says."""
    messages = messages_of(values)
    if messages and tokenizer.chat_template is not None:
        return len(tried(tokenizer.chat_ids, messages) or ())
    texts = map(_text, messages) if messages else (values.get(name) for name in COLUMNS[:-1])
    ids = tokenizer.encode("".join(text for text in texts if isinstance(text, str)))
    return len(ids) + int(tokenizer.adds_bos) + (tokenizer.eos_id is not None)


ROWS = {
    "unreadable-row": _unreadable, "mixed-forms": _mixed, "no-answer": _no_answer, "unknown-role": _role,
    "held-out-in-training": lambda rows: rows.where(lambda one: said(one) in rows.held),
    "template-twice": lambda rows: rows.where(lambda one: any(CONTROL.search(_text(m)) for m in messages_of(one))),
    "bos-in-text": lambda rows: rows.at([at for at, text in rows.texts("text", "prompt") if text.startswith(BEGINS)]),
    "boundary": lambda rows: rows.at([at for at, text in rows.texts("prompt") if text.endswith((" ", "\t"))]),
    "template-drops-turn": _dropped, "no-template": _no_template, "rows-too-long": _long,
    "equal-answers": lambda rows: rows.where(lambda one: "chosen" in one and one["chosen"] == one.get("rejected")),
}  # fmt: skip


# ------------------------------------------------------------------------ rows that another trainer has tokenized
IGNORED = -100
MOST = 0.8  # of the rows, from which on something is their convention
PADDED = 3  # equal tokens at an end that are padding, where no mask says it


@dataclass
class TokenizedRows(LintTable):
    """Tokenized rows; `size`: of the model's vocabulary, where it is known."""

    tokenizer: Any
    size: int | None

    @cached_property
    def read(self) -> list[tuple[int, list[int], list[int], int]]:
        """`(line, ids, labels, tokens before the padding)`, with padding of the left put to the right.

        Raises:
            DataError: a row whose columns do not fit.
        """
        out = []
        for line, values in self.rows:
            where = f"{self.path}:{line}"
            ids = _numbers(where, values, "input_ids")
            labels = _numbers(where, values, "labels", ids)
            size = _unpadded(ids)
            mask = _numbers(where, values, "attention_mask", [1] * size + [0] * (len(ids) - size))
            if not (seen := set(mask) - {0}) or seen != set(range(1, len(seen) + 1)):  # packed texts count up
                raise DataError(f"{where}: attention_mask: 1 (of packed texts 1, 2, ...) and 0 are expected")
            order = sorted(range(len(ids)), key=lambda at: not mask[at])
            out.append((line, [ids[at] for at in order], [labels[at] for at in order], sum(map(bool, mask))))
        return out

    @cached_property
    def end(self) -> int | None:
        """The token with which texts end: the tokenizer's, else that of most rows before the padding."""
        ends = Counter(ids[size - 1] for _, ids, _, size in self.read if size)
        token, count = ends.most_common(1)[0] if ends else (None, 0)
        most = token if len(self.read) > 1 and 2 * count >= MOST * len(self.read) else None
        named = None if self.tokenizer is None else self.tokenizer.eos_id
        return named if named in ends else most


def _numbers(where: str, values: Mapping[str, Any], name: str, otherwise: list[int] | None = None) -> list[int]:
    """A column of a row, as long as what it is without one. Raises DataError for what is no list of integers."""
    value = otherwise if values.get(name) is None else values[name]
    if not isinstance(value, list) or not value or not all(type(one) is int for one in value):
        raise DataError(f"{where}: {name}: a list of integers is expected, not {shown(value)}")
    if otherwise is not None and len(value) != len(otherwise):
        raise DataError(f"{where}: has {len(otherwise)} input_ids and {len(value)} {name}")
    return value


def _unpadded(ids: list[int]) -> int:
    size = len(ids)
    while size > 1 and ids[size - 1] == ids[-1]:
        size -= 1
    return size + 1 if len(ids) - size >= PADDED else len(ids)  # one of them may end the text


def _end_untrained(rows: TokenizedRows) -> Fields:
    learned = {label for _, _, labels, _ in rows.read for label in labels} - {IGNORED}
    given = [line for line, ids, _, size in rows.read if ids[size - 1] == rows.end]
    return rows.at(given if rows.end is not None and learned and rows.end not in learned else [], end=rows.end)


def _begins_twice(rows: TokenizedRows) -> Fields:
    twice = [line for line, ids, _, _ in rows.read if len(ids) > 2 and ids[0] == ids[1] != ids[2]]
    return rows.at(twice if len(twice) >= MOST * len(rows.read) else [])


def _cut(rows: TokenizedRows) -> Fields:
    longest = max(len(ids) for _, ids, _, _ in rows.read)
    cut = [line for line, ids, _, size in rows.read if size == len(ids) == longest and ids[-1] != rows.end]
    return rows.at(cut if rows.end is not None and len(cut) > 1 else [], longest=longest, end=rows.end)


def _shifted(rows: TokenizedRows) -> Fields:
    shifted = []
    for line, ids, labels, _ in rows.read:
        own = [(a, b, c) for a, b, c in zip(labels, ids, ids[1:], strict=False) if a != IGNORED]
        if len(own) > 2 and all(label == after for label, _, after in own) and any(a != b for a, b, _ in own):
            shifted.append(line)
    return rows.at(shifted)


def _padding(rows: TokenizedRows) -> Fields:
    padded = [(line, labels[size:]) for line, ids, labels, size in rows.read if len(ids) - size >= 2]
    return rows.at([line for line, labels in padded if IGNORED not in labels])


def _beyond(rows: TokenizedRows) -> Fields:
    read = rows.read if rows.size is not None else []
    return rows.at(
        [line for line, ids, _, _ in read if not 0 <= min(ids) <= max(ids) < (rows.size or 0)], size=rows.size
    )


TOKENS = {
    "no-loss": lambda rows: rows.at([line for line, _, labels, _ in rows.read if set(labels) == {IGNORED}]),
    "end-untrained": _end_untrained, "bos-twice": _begins_twice, "answers-cut": _cut, "labels-shifted": _shifted,
    "padding-trained": _padding, "ids-out-of-vocabulary": _beyond,
}  # fmt: skip
