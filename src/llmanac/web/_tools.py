"""Tool calls in a model's text, as its chat template asks for them.

In the form of Hermes and Qwen text may come before the calls; in that of Llama 3 the reply is either text or calls.
A `Calls` reads one choice as it grows. A call is known by its name; its arguments go on as they come, as they are
written. What only begins like a call is text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterator
from typing import Any

from llmanac.generate.constrain.tools import form_named
from llmanac.generate.constrain.tools import form_of as form_of
from llmanac.web._thoughts import overlap

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
        found = form_named(form)
        self.names, self.most = names, most
        self._opening, self._closing = found.opening.strip(), found.closing.strip()
        self.made: list[dict[str, Any]] = []
        self.content = ""
        self._waiting = ""
        self._state = "text" if found.opening else "head"
        self._value = Value()
        self._spaces = ""
        kind, key = r'(?:"type"\s*:\s*"function"\s*,\s*)?', f'"{found.key}"'
        self._head = re.compile(rf'\s*\{{\s*{kind}"name"\s*:\s*"([\w-]+)"\s*,\s*{key}\s*:\s*(?=\{{)')

    def push(self, text: str, *, last: bool = False) -> Iterator[dict[str, Any]]:
        """The deltas that more text brings: `{"content": ...}` or `{"tool_calls": [...]}`."""
        self._waiting += text
        moving = True
        while moving:
            before = (self._state, len(self._waiting))
            yield from getattr(self, f"_in_{self._state}")(last)
            moving = bool(self._waiting) and before != (self._state, len(self._waiting))
        if last and self._spaces and not self.made:
            yield from self._say("", last)

    def _in_text(self, last: bool) -> Iterator[dict[str, Any]]:
        text, opening, rest = self._waiting.partition(self._opening)
        held = 0 if last or opening else overlap(text, self._opening)
        yield from self._say(text[: len(text) - held], last and not opening)
        self._waiting = rest if opening else text[len(text) - held :]
        if opening:
            self._state = "head"

    def _in_head(self, last: bool) -> Iterator[dict[str, Any]]:
        found = self._head.match(self._waiting)
        if found is not None and found[1] in self.names:
            yield self._begin(found[1])
            self._waiting = self._waiting[found.end() :]
            self._state, self._value = "arguments", Value()
            return
        inside, closing, rest = self._waiting, "", ""
        if self._closing:
            inside, closing, rest = self._waiting.partition(self._closing)
        late = bool(self._closing) and re.match(r'\s*\{\s*"arguments"', inside) is not None  # before the name
        call = _read(inside, self.names) if late and closing else None
        if call is not None:
            yield self._begin(call[0])
            yield self._more(call[1])
            self._waiting, self._state = rest, "text"
            return
        odd = not self._opening and inside.lstrip()[:1] not in ("", "{")
        if (
            found is not None or closing or odd or last or len(inside) > (LONGEST_LATE if late else LONGEST_HEAD)
        ):  # no call after all
            self._waiting, self._state = rest, "text" if self._opening else "rest"
            yield from self._say(self._opening + inside + closing, last and not rest)

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
        if self._closing:
            _, found, rest = self._waiting.partition(self._closing)
            following = "text"
        else:
            rest = re.sub(r"^\s*\}?\s*[;,]?\s*", "", self._waiting, count=1)
            found, following = rest[:1] if rest[:1] == "{" else "", "head"
        if found:
            self._waiting, self._state = rest, following

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
