"""Tool calls in a model's text, as its chat template asks for them.

Where calls have a marker, text may come before them; else the reply is either text or calls. A `Calls` reads one choice
as it grows. A call is known by its name; its arguments go on as they come, as they are written. What only begins like a
call is text.

Tools for models whose chat template has no form of calls: they are described in a message.

The calls are written as Hermes and Qwen write them, and are constrained to the functions' parameters. Earlier calls and
their results are told as text, in turns that every template has.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llmanac.generate.constrain.tools import form_named as form_named
from llmanac.generate.constrain.tools import form_of as form_of
from llmanac.web._thoughts import overlap

PROMPT = """You can call functions. These are the functions, one on a line:
{tools}
To call a function, write its call in this form, and nothing behind it:
<tool_call>
{{"name": "the function's name", "arguments": {{its arguments, as JSON}}}}
</tool_call>
The result then comes in <tool_response>. If no function is needed, answer without a call."""


def prompted(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with the functions described in its system message, or else in the user's first one."""
    out: list[dict[str, Any]] = []
    for message in messages:
        told = _told(message)
        if out and out[-1]["role"] == told["role"] == "user":  # templates want turns in turn
            out[-1]["content"] = _joined(out[-1]["content"], told["content"])
        else:
            out.append(told)
    if tools:
        described = PROMPT.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
        first = next((m for m in out if m["role"] in ("system", "user")), None)
        if first is None:
            out.insert(0, {"role": "user", "content": described})
        elif first["role"] == "system":
            first["content"] = _joined(first["content"], described)
        else:
            first["content"] = _joined(described, first["content"])
    return out


def _told(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in a role that every template has."""
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    told = {name: value for name, value in message.items() if name not in ("tool_calls", "tool_call_id")}
    calls = [
        f'<tool_call>\n{{"name": "{call["function"]["name"]}", "arguments": '
        f"{json.dumps(call['function']['arguments'], ensure_ascii=False)}}}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return {**told, "content": "\n".join([*([content] if content else []), *calls]) if calls else content}


def _joined(first: Any, second: Any) -> Any:
    """Two contents as one: texts, or lists of parts where there are images."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}" if first and second else first or second
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


LONGEST_HEAD = 512  # characters before a call's arguments
LONGEST_LATE = 2**16  # characters of a call with its name behind its arguments, which is read at its end


class Calls:
    """Tells a choice's text from its tool calls.

    Args:
        form: how calls are written.
        names: of the functions that may be called.
        most: calls that are read; what comes after them is left out. None sets no bound.

    Attributes:
        made: the calls so far, as `message.tool_calls` has them.
        content: the text outside calls.
    """

    def __init__(self, form: str, names: Collection[str], most: int | None = None) -> None:
        self._form = form_named(form)
        self.names, self.most = names, most
        self.made: list[dict[str, Any]] = []
        self.content = ""
        self._waiting = ""
        self._state = "text" if self._form.marker else "head"
        self._value = Value()
        self._spaces = ""

    def push(self, text: str, *, last: bool = False) -> Iterator[dict[str, Any]]:
        """The deltas that more text brings: `{"content": ...}` or `{"tool_calls": [...]}`."""
        self._waiting += text
        moving = True
        while moving:
            before = (self._state, len(self._waiting))
            yield from getattr(self, f"_in_{self._state}")(last)
            moving = (bool(self._waiting) or last) and before != (self._state, len(self._waiting))
        if last and self._spaces and not self.made:
            yield from self._say("", last)

    def _in_text(self, last: bool) -> Iterator[dict[str, Any]]:
        text, marker, rest = self._waiting.partition(self._form.marker)
        held = 0 if last or marker else overlap(text, self._form.marker)
        yield from self._say(text[: len(text) - held], last and not marker)
        self._waiting = rest if marker else text[len(text) - held :]
        if marker:
            self._state = "head"

    def _in_head(self, last: bool) -> Iterator[dict[str, Any]]:
        form = self._form
        closing, waiting = form.closing, self._waiting.lstrip()
        if self.made and closing and (waiting.startswith(closing) or (closing.startswith(waiting) and not last)):
            if waiting.startswith(closing):
                self._waiting, self._state = waiting.removeprefix(closing), "text"
            return
        found = form.head.match(self._waiting)
        if found is not None and found[1] in self.names:
            yield self._begin(found[1])
            self._waiting = self._waiting[found.end() :]
            self._state, self._value = "arguments", Value()
            return
        end = form.after.strip()
        inside, over, rest = self._waiting.partition(end) if end else (self._waiting, "", "")
        if found is not None:  # of an unknown function: what follows is read as text, however much of it is here
            inside, over, rest = found[0], "", self._waiting[found.end() :]
        late = form.each and bool(end) and re.match(r'\s*\{\s*"arguments"', inside) is not None  # before the name
        call = _read(inside, self.names) if late and over else None
        if call is not None:
            yield self._begin(call[0])
            yield self._more(call[1])
            self._waiting, self._state = rest, "text"
            return
        odd = not form.marker and inside.lstrip()[:1] not in ("", "{")
        long = len(inside) > (LONGEST_LATE if late else LONGEST_HEAD)
        if found is not None or over or odd or last or long:  # no call after all
            self._waiting, self._state = rest, "text" if form.marker else "rest"
            marker = form.marker if form.each or not self.made else ""
            yield from self._say(marker + inside + over, last and not rest)

    def _in_arguments(self, last: bool) -> Iterator[dict[str, Any]]:
        size = self._value.push(self._waiting)
        piece, self._waiting = self._waiting[:size], self._waiting[size:]
        if piece:
            yield self._more(piece)
        if self._value.complete:
            self._state = "tail"

    def _in_tail(self, last: bool) -> Iterator[dict[str, Any]]:
        """What closes a call, and what is between two, is not shown."""
        yield from ()
        if self.most is not None and len(self.made) >= self.most:
            self._waiting = ""
            return
        form, end = self._form, self._form.after.strip()
        if end:
            _, over, rest = self._waiting.partition(end)
            if over:
                self._waiting, self._state = rest, "text" if form.each else "head"
        elif form.each:
            self._state = "text"
        else:
            rest = form.tail.sub("", self._waiting, count=1)
            if rest.startswith("{"):
                self._waiting, self._state = rest, "head"
            elif form.closing and rest.startswith(form.closing):
                self._waiting, self._state = rest.removeprefix(form.closing), "text"

    def _in_rest(self, last: bool) -> Iterator[dict[str, Any]]:
        text, self._waiting = self._waiting, ""
        yield from self._say(text, last)

    def _say(self, text: str, last: bool) -> Iterator[dict[str, Any]]:
        """Text outside calls, without the white space before a call or at the end behind one."""
        text = self._spaces + text
        said = text if last and not self.made else text.rstrip()
        self._spaces = text[len(said) :]
        if said:
            self.content += said
            yield {"content": said}

    def _begin(self, name: str) -> dict[str, Any]:
        call = {"id": f"call_{secrets.token_hex(12)}", "type": "function"}
        self.made.append({**call, "function": {"name": name, "arguments": ""}})
        self._spaces = ""
        return self._delta(call, {"name": name, "arguments": ""})

    def _more(self, arguments: str) -> dict[str, Any]:
        self.made[-1]["function"]["arguments"] += arguments
        return self._delta({}, {"arguments": arguments})

    def _delta(self, head: dict[str, Any], function: dict[str, Any]) -> dict[str, Any]:
        return {"tool_calls": [{"index": len(self.made) - 1, **head, "function": function}]}


def _read(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments of a complete call; None for what is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name, given = found.get("name"), found.get("arguments")
    if not isinstance(name, str) or name not in names or not isinstance(given, dict):
        return None
    return name, json.dumps(given, ensure_ascii=False)


class Value:
    """Finds the end of a JSON object in text that comes piece by piece."""

    def __init__(self) -> None:
        self.complete = False
        self._depth, self._quoted, self._escaped = 0, False, False

    def push(self, text: str) -> int:
        """How many of the characters belong to the object."""
        for i, c in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or c != '"'
                self._escaped = c == "\\" and not self._escaped
            elif c == '"':
                self._quoted = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.complete = True
                    return i + 1
        return len(text)
