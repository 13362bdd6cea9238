"""Faults in rows: chats, prompts with completions, texts, and pairs of answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, TokenizerError
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.recipes.chat_rows import SPEAKERS, other_form
from llmanac.recipes.linting.rules import Rule, rules_of

RULES: list[Rule] = []
rule = rules_of(RULES)
ROLES = {"system", "user", "assistant", "tool", "function", "developer", "ipython", "environment", "observation"}
CONTROL = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|<\|assistant\|>|<\|user\|>|<\|eot_id\|>"
)
BEGINS = ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>")
RENDERED = 200  # conversations that the chat template is tried on
SEEN = 24  # characters of a message that its rendering must hold
Row = tuple[int, Mapping[str, Any]]


@dataclass
class Rows:
    """Rows of a file by line, with what reads them where it is known.

    Attributes:
        longest: tokens of a row that are kept; held: texts of rows that are held out.
    """

    path: Path
    rows: list[Row]
    tokenizer: Any = None
    longest: int | None = None
    held: set[str] = field(default_factory=set)

    @cached_property
    def chats(self) -> list[tuple[int, list[Mapping[str, Any]]]]:
        """The conversations, by line."""
        found = ((line, messages_of(values)) for line, values in self.rows)
        return [(line, messages) for line, messages in found if messages]

    def at(self, lines: Sequence[int], what: str) -> Iterator[str]:
        """A sentence on rows, where there are some."""
        if lines:
            yield f"{self.path}:{lines[0]}: {what} ({len(lines):,} of {len(self.rows):,} rows)"


def opened(path: Path, tokenizer: Any, longest: int | None, held_out: str | None) -> Rows:
    """The rows of a file. Raises DataError for one that cannot be read."""
    found = [(row.line, row.values) for row in table_rows(path, CommandProblems(advice="fix or drop it"))]
    if not found:
        raise DataError(f"{path}: holds no rows")
    held: set[str] = set()
    if held_out is not None:
        held = {said(row.values) for row in table_rows(Path(held_out), CommandProblems(advice="fix or drop it"))}
    return Rows(path, found, tokenizer, longest, held)


def messages_of(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a row of any form; none where it is of plain texts."""
    given: Any = values.get("messages")
    if given is None and isinstance(values.get("conversations"), list):
        given = [
            {"role": SPEAKERS.get(str(turn.get("from")).lower(), turn.get("from")), "content": turn.get("value")}
            if isinstance(turn, Mapping) and "from" in turn else turn
            for turn in values["conversations"]
        ]  # fmt: skip
    elif given is None and isinstance(values.get("prompt"), list):
        given = [*values["prompt"], *(values.get("completion") or ())]
    elif given is None:
        try:
            made = other_form(values) or {}
        except DataError:  # reading it says why
            made = {}
        given = [*made.get("prompt", ()), *made.get("completion", ())]
    return [one for one in given or () if isinstance(one, Mapping)]


def said(values: Mapping[str, Any]) -> str:
    """All that a row says, without case and white space: what makes two rows the same."""
    if messages := messages_of(values):
        texts = [f"{one.get('role')} {one.get('content')}" for one in messages]
    else:
        texts = [str(values[name]) for name in ("prompt", "completion", "text", "chosen", "rejected") if name in values]
    return " ".join(" ".join(texts).casefold().split())


def _form(values: Mapping[str, Any]) -> str:
    if "chosen" in values or "rejected" in values:
        return "pairs of answers"
    if messages_of(values):
        return "chats"
    return "texts" if values.get("text") is not None and "completion" not in values else "prompts with completions"


@rule("mixed-forms", "huggingface/trl#1400")
def _mixed(rows: Rows) -> Iterator[str]:
    seen: dict[str, int] = {}
    for line, values in rows.rows:
        seen.setdefault(_form(values), line)
    if len(seen) > 1:
        where = ", ".join(f"{form} from line {line}" for form, line in seen.items())
        yield f"{rows.path}: mixes {where}, which carry loss on other tokens; write a file for each"


@rule("no-answer", "axolotl-ai-cloud/axolotl#603")
def _no_answer(rows: Rows) -> Iterator[str]:
    empty = []
    for line, messages in rows.chats:
        answers = [one for one in messages if one.get("role") == "assistant"]
        known = all(one.get("role") in ROLES for one in messages)
        if (known and not answers) or any(not one.get("tool_calls") and not _text(one).strip() for one in answers):
            empty.append(line)
    empty += [line for line, values in rows.rows
              if isinstance(values.get("completion"), str) and not values["completion"].strip()]  # fmt: skip
    yield from rows.at(empty, "no answer, or an empty one, which teaches to say nothing; drop the row")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


@rule("unknown-role", "axolotl-ai-cloud/axolotl#752")
def _role(rows: Rows) -> Iterator[str]:
    wrong = {line: one.get("role") for line, messages in rows.chats for one in messages if one.get("role") not in ROLES}
    if wrong:
        names = ", ".join(sorted({repr(role) for role in wrong.values()})[:3])
        yield from rows.at(list(wrong), f"the role {names}, whose turns a loss on assistants leaves out; rename it")


@rule("held-out-in-training", "herniqeu/extract0#1")
def _leaked(rows: Rows) -> Iterator[str]:
    if rows.held:
        both = [line for line, values in rows.rows if said(values) in rows.held]
        yield from rows.at(both, "this row is held out too, so that what is measured was learned; take it out of one")


@rule("template-twice", "huggingface/alignment-handbook#117")
def _rendered_before(rows: Rows) -> Iterator[str]:
    marked = [line for line, messages in rows.chats if any(CONTROL.search(_text(one)) for one in messages)]
    yield from rows.at(marked, "a message holds control tokens of a chat template, which will be rendered once more; "
                               "give plain messages, or the whole as `text`")  # fmt: skip


@rule("bos-in-text", "huggingface/trl#1114")
def _begins(rows: Rows) -> Iterator[str]:
    given = ((line, str(values.get(name) or "")) for line, values in rows.rows for name in ("text", "prompt"))
    twice = [line for line, text in given if text.startswith(BEGINS)]
    yield from rows.at(twice, "the text begins with a begin-of-text token, which tokenizers add once more; remove it")


@rule("boundary", "huggingface/trl#1920")
def _boundary(rows: Rows) -> Iterator[str]:
    parted = [line for line, values in rows.rows
              if isinstance(values.get("prompt"), str) and values["prompt"][-1:] in (" ", "\t")]  # fmt: skip
    yield from rows.at(parted, "the prompt ends in a space, which belongs to the next word's token, so that prompt and "
                               "answer are cut inside of one; move it to the completion")  # fmt: skip


@rule("template-drops-turn", "oobabooga/textgen#5356")
def _dropped(rows: Rows) -> Iterator[str]:
    if getattr(rows.tokenizer, "chat_template", None) is None:
        return
    lost: dict[str, list[int]] = {}
    for line, messages in rows.chats[:RENDERED]:
        try:
            text = rows.tokenizer.render_chat(messages)
        except TokenizerError as error:
            lost.setdefault(f"the chat template refuses the conversation ({str(error)[:120]})", []).append(line)
            continue
        for one in messages:
            if (content := _text(one).strip()) and content[:SEEN].strip() not in text:
                role = one.get("role")
                lost.setdefault(f"the chat template leaves out the {role} turn; say it in another one", []).append(line)
    for what, lines in lost.items():
        yield from rows.at(lines, what)


@rule("no-template", "ollama/ollama#6823")
def _no_template(rows: Rows) -> Iterator[str]:
    if rows.tokenizer is not None and rows.chats and rows.tokenizer.chat_template is None:
        yield f"{rows.path}: holds chats, and the model has no chat template; name one that has, or give texts"


@rule("answers-cut", "hiyouga/LlamaFactory#5231")
def _cut(rows: Rows) -> Iterator[str]:
    if rows.tokenizer is None or rows.longest is None:
        return
    long = []
    for line, values in rows.rows:
        size = len(rows.tokenizer.encode(said(values)))
        if size > rows.longest:
            long.append(line)
    yield from rows.at(long, f"is longer than {rows.longest:,} tokens: its end, and the token that ends an answer, is "
                             "cut off; raise the length or drop the row")  # fmt: skip


@rule("equal-answers", "huggingface/trl#2553")
def _equal(rows: Rows) -> Iterator[str]:
    same = [line for line, values in rows.rows if "chosen" in values and values["chosen"] == values.get("rejected")]
    yield from rows.at(same, "chosen and rejected are the same, from which nothing is learned; drop the row")


@rule("other-prompts", "unslothai/unsloth-zoo#1110")
def _apart(rows: Rows) -> Iterator[str]:
    apart = []
    for line, values in rows.rows:
        a, b = values.get("chosen"), values.get("rejected")
        if isinstance(a, list) and isinstance(b, list) and "prompt" not in values and a[:1] != b[:1]:
            apart.append(line)
    yield from rows.at(apart, "chosen and rejected answer other prompts; a pair has one prompt")
