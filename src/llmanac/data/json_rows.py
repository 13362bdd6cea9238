"""Rows out of JSON: one object a line, or one array of objects, read an element at a time."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmanac.core.errors import shown
from llmanac.data.columns import Row
from llmanac.data.lines import lines, not_utf8, text_pieces
from llmanac.data.quarantine import SHOWN, Problems
from llmanac.data.unpack import BLOCK, Span, blocks


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ on which of the two counts
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(twice)} is given twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)  # as fast as without the hook
_SPACE = re.compile(r"[ \t\n\r]*")


def line_rows(path: Path, problems: Problems, span: Span | None = None) -> Iterator[Row]:
    """JSON Lines; a line that is no JSON object is a problem of its own."""
    for number, line in lines(path, problems, span):
        if not line.strip():
            continue
        try:
            value = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            problems.report(path, number, f"not JSON ({_reason(error)})", line, code="not-json")
            continue
        if not isinstance(value, dict):
            _not_an_object(path, number, value, problems, line)
            continue
        yield Row(value, number)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _not_an_object(path: Path, number: int, value: Any, problems: Problems, raw: str = "") -> None:
    reason = f"expected a JSON object, got {type(value).__name__}"
    problems.report(path, number, reason, raw, code="not-an-object")


def array_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """One array of objects; also one object, or one object a line, whatever the file is called.

    Memory is bounded by an element, and an element by `Bounds.line`.
    """
    text = _Text(path, problems)
    if text.peek() != "[":
        yield from _one_object(path, problems)
        return
    text.at += 1
    number = 0
    while True:
        mark = text.peek()
        if mark == "]" and number == 0:
            return
        if number:
            if mark == "]":
                return
            if mark != ",":
                what = "the array has no end" if not mark else f"expecting ',' or ']', found {mark!r}"
                problems.report(path, text.line, f"not JSON ({what})", code="not-json")
                return
            text.at += 1
            text.peek()
        number += 1
        try:
            value = text.value(problems.bounds.line)
        except _TooLong:
            reason = f"an element longer than {problems.bounds.line:,} bytes ({problems.bounds.longer})"
            reason += "; the rest is left out"
            problems.report(path, number, reason, text.shown(), code="too-large")
            return
        except (ValueError, RecursionError) as error:
            problems.report(path, text.line, f"not JSON ({_reason(error)})", code="not-json")
            return
        if isinstance(value, dict):
            yield Row(value, number)
        else:
            _not_an_object(path, number, value, problems)


class _TooLong(Exception):
    pass


class _Text:
    """A window on a file's text, from `at` on; it grows where an element needs it."""

    def __init__(self, path: Path, problems: Problems) -> None:
        self._pieces = text_pieces(path, problems, limit=BLOCK)
        self._held, self._passed, self.at, self._ended = "", 1, 0, False

    @property
    def line(self) -> int:
        """The line of `at`, 1-based."""
        return self._passed + self._held.count("\n", 0, self.at)

    def shown(self) -> str:
        return self._held[self.at : self.at + SHOWN]

    def peek(self) -> str:
        """The next character that is no space, which `at` then points to; nothing at the end of the file."""
        while True:
            found = _SPACE.match(self._held, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self._held):
                return self._held[self.at]
            if not self._grow():
                return ""

    def expect(self, mark: str) -> None:
        """Pass over a mark and the space behind it. Raises ValueError where something else follows."""
        if (found := self.peek()) != mark:
            raise ValueError(f"expecting {mark!r}, found {found!r}" if found else f"it ends without a {mark!r}")
        self.at += 1
        self.peek()

    def value(self, limit: int) -> Any:
        """The value that begins at `at`. Raises `_TooLong`, or what `json` raises for text that is no JSON."""
        while True:
            try:
                value, stop = _DECODER.raw_decode(self._held, self.at)
                if stop < len(self._held) or not self._grow():  # a number may go on in what follows
                    self.at = stop
                    return value
            except json.JSONDecodeError:
                if len(self._held) - self.at > limit:
                    raise _TooLong from None
                if not self._grow():
                    raise

    def _grow(self) -> bool:
        """Hold more than twice as much as is left, so that a long element is tried a few times only."""
        self._passed = self.line
        kept, aim = [self._held[self.at :]], 2 * (len(self._held) - self.at)
        size = len(kept[0])
        while size <= aim and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            kept.append(piece or "")
            size += len(kept[-1])
        self._held, self.at = "".join(kept), 0
        return size > len(kept[0])


def _one_object(path: Path, problems: Problems) -> Iterator[Row]:
    """A file that does not begin with `[`: one object over several lines if it is one, else JSON Lines."""
    parts, size = [], 0
    for block in blocks(path, problems):
        parts.append(block)
        size += len(block)
        if size > problems.bounds.line:
            yield from line_rows(path, problems)
            return
    data = b"".join(parts)
    try:
        value = _DECODER.decode(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problems.report(path, None, not_utf8(data, error.start, data[error.start]), code="not-utf8")
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from line_rows(path, problems)
        else:
            number = error.lineno if isinstance(error, json.JSONDecodeError) else None
            problems.report(path, number, f"not JSON ({_reason(error)})", code="not-json")
    else:
        if isinstance(value, dict):
            yield Row(value, 1)
        else:
            _not_an_object(path, 1, value, problems)


Key = tuple[str | int, ...]


def members(path: Path, problems: Problems, inside: Collection[str] | None) -> Iterator[tuple[Key, Any]]:
    """The members of one object, each with its key; of those named `inside` (None: of all) what they hold, one by one.

    Memory is bounded by an element: `{"a": 1, "b": [5, 6]}` with b inside gives ("a",) 1, ("b", 1) 5, ("b", 2) 6.
    """
    text = _Text(path, problems)
    try:
        if text.peek() != "{":
            raise ValueError("expected an object")
        yield from _members(text, problems.bounds.line, inside, ())
    except (_TooLong, ValueError, RecursionError) as error:
        reason = _reason(error) or f"an element longer than {problems.bounds.line:,} bytes"
        problems.report(path, text.line, f"not JSON that is read ({reason})", code="not-json")


def _members(text: _Text, limit: int, inside: Collection[str] | None, before: Key) -> Iterator[tuple[Key, Any]]:
    closing, number = "}" if text.peek() == "{" else "]", 0
    text.at += 1
    while text.peek() != closing:
        if number:
            text.expect(",")
        number += 1
        key: str | int = number
        if closing == "}":
            key = str(text.value(limit))
            text.expect(":")
        if not before and (inside is None or key in inside) and text.peek() in ("{", "["):
            yield from _members(text, limit, inside, (key,))
        else:
            yield (*before, key), text.value(limit)
    text.at += 1
