"""The forms in which chats come, as the one that is trained on: `messages`, or `prompt` and `completion`.

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}    ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                                      Alpaca
    {"question": ..., "context": ..., "answer": ...}

`input` and `context` may be missing. A question becomes a turn of the user. Typed content
(`[{"type": "text", "text": ...}]`) becomes its text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, LlmanacError
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.tokenizers import BEGINS, ENDS, PADS
from llmanac.tokenizers.chat.template import default_template

SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "bard": "assistant"}
OTHER_FORMS = ("conversations", "system", "instruction", "input", "output", "question", "context", "answer", "history")


def other_form(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row of another form as `messages`, or `prompt` and `completion`; None where it is none of them."""
    turns = values.get("conversations")
    if isinstance(turns, Sequence) and not isinstance(turns, str) and turns:
        before = _text(values, "system")
        head = [{"role": "system", "content": before}] if before else []
        return {"messages": [*head, *(_turn(turn, i) for i, turn in enumerate(turns))]}
    for asked, answer, more in (("instruction", "output", "input"), ("question", "answer", "context")):
        if isinstance(values.get(asked), str) and isinstance(values.get(answer), str):
            if values.get("history"):
                raise DataError("history: earlier turns are read from `messages` only; write the row in that form")
            parts = [values[asked], _text(values, more)]
            text = "\n\n".join(part for part in (parts if more == "input" else parts[::-1]) if part)
            return {"prompt": [{"role": "user", "content": text}],
                    "completion": [{"role": "assistant", "content": values[answer]}]}  # fmt: skip
    return None


def _text(values: Mapping[str, Any], name: str) -> str:
    """A column that may be missing or empty."""
    given = values.get(name)
    if given is not None and not isinstance(given, str):
        raise DataError(f"{name}: a text was expected, not {type(given).__name__}")
    return given.strip() if given else ""


def _turn(turn: Any, i: int) -> Any:
    if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
        return turn  # messages under another name; checked as such
    speaker = str(turn["from"])
    return {"role": SPEAKERS.get(speaker.lower(), speaker), "content": turn["value"]}


def checked(messages: Any, name: str = "messages") -> Any:
    """Messages with plain text as content.

    Raises:
        DataError: content that is missing or no text, or an answer without text, which would teach to say nothing.
    """
    if not isinstance(messages, (list, tuple)):
        return messages  # refused, with a sentence, by the objective
    out: list[Any] = []
    for i, message in enumerate(messages):
        where = f"{name}[{i}]"
        if not isinstance(message, Mapping):
            return messages
        content, calls = message.get("content"), message.get("tool_calls")
        if isinstance(content, (list, tuple)):
            message = {**message, "content": (content := _parts(content, where))}
        if content is not None and not isinstance(content, str) and not isinstance(content, (list, tuple)):
            raise DataError(f"{where}.content: a text was expected, not {type(content).__name__}")
        if content is None and not calls:
            raise DataError(f"{where}.content: is missing; give a text, or leave the message out")
        if message.get("role") == "assistant" and not calls and isinstance(content, str) and not content.strip():
            raise DataError(f"{where}: the assistant says nothing here; a model would learn to; leave the message out")
        out.append(message)
    return out


def _parts(parts: Sequence[Any], where: str) -> str:
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DataError(f"{where}.content: {str(part)[:60]} is not a part of type text")
    return "".join(part["text"] for part in parts)


def can_chat(tokenizer: Any, file: str | Path) -> Any:
    """The tokenizer; where the file holds chats and it has no chat template, with the usual one for its control tokens.

    A run's base has no template, since it never read a chat; what is trained on chats has one.
    """
    if tokenizer is not None and tokenizer.chat_template is None and _chats(Path(file)):
        names = {token.id: token.text for token in tokenizer.added.tokens if token.special}
        tokenizer.chat_template = default_template(
            names.values(), eos=names.get(tokenizer.eos_id), no_roles=(*BEGINS, *ENDS, *PADS)
        )
    return tokenizer


def _chats(path: Path) -> bool:
    """Whether the first row of a file is a chat. What is wrong with the file is said when it is read."""
    try:
        values = next(iter(table_rows(path, CommandProblems()))).values
    except (LlmanacError, OSError, StopIteration):
        return False
    given = {**values, **(other_form(values) or {})}
    return any(isinstance(given.get(name), (list, tuple)) for name in ("messages", "prompt", "chosen"))
