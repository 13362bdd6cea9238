r"""Slots of templates, and templates that are written as text (`template.py` has the form)."""

import ast
import re
from dataclasses import dataclass, replace
from typing import Any

from llmanac.core.errors import RequestError, shown

LONGEST_STOP = 200
SLOT = re.compile(r"\{(?P<name>[A-Za-z_]\w*)\s*(?P<colon>:)?\s*")
OPTION = re.compile(r"""\s*,\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|-?\w+)""", re.DOTALL)


@dataclass(frozen=True)
class Slot:
    """What the model writes: at most one of `regex`, `schema` (of JSON) and `choices`; without them free text.

    Attributes:
        stop, max_tokens: of free text only: the text before which it ends, and the tokens after which it does.
    """

    name: str = ""
    regex: str | None = None
    schema: Any = None
    choices: tuple[str, ...] | None = None
    stop: str | None = None
    max_tokens: int | None = None

    def check(self) -> None:
        """Raises RequestError that names the slot."""
        if not self.name.isidentifier():
            raise RequestError(f"template: {shown(self.name)} is no name of a slot; use letters, digits and _")
        kinds = [k for k in ("regex", "schema", "choices") if getattr(self, k) is not None]
        if len(kinds) > 1:
            raise RequestError(f"template: slot {self.name!r} has {' and '.join(kinds)}; give one of them")
        if kinds and (self.stop is not None or self.max_tokens is not None):
            raise RequestError(f"template: slot {self.name!r}: stop and max_tokens are for free text, not {kinds[0]}")
        if self.stop is not None and not (isinstance(self.stop, str) and 0 < len(self.stop) <= LONGEST_STOP):
            raise RequestError(
                f"template: slot {self.name!r}: stop {self.stop!r} is not a text of 1 to {LONGEST_STOP} characters"
            )
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise RequestError(f"template: slot {self.name!r}: max_tokens {self.max_tokens!r} is not at least 1")
        if self.choices is not None and not (self.choices and all(isinstance(c, str) for c in self.choices)):
            raise RequestError(f"template: slot {self.name!r}: choices are texts, at least one")

    @property
    def free(self) -> bool:
        return self.regex is None and self.schema is None and self.choices is None


def read(text: str, slots: dict[str, Slot]) -> list[str | Slot]:
    """The parts of a template that is written as text."""
    parts: list[str | Slot] = []
    at = 0
    while at < len(text):
        brace = re.compile(r"[{}]").search(text, at)
        if brace is None:
            return [*parts, text[at:]]
        parts.append(text[at : brace.start()])
        at = brace.start()
        if text[at : at + 2] in ("{{", "}}"):
            parts.append(text[at])
            at += 2
            continue
        found = SLOT.match(text, at)
        if found is None:
            raise RequestError(
                f"template: {text[at : at + 30]!r} is no slot such as {{name:/[a-z]+/}}; write {{{{ or }}}}"
            )
        slot, at = _slot(text, found, slots)
        parts.append(slot)
    return parts


def _slot(text: str, found: re.Match[str], slots: dict[str, Slot]) -> tuple[Slot, int]:
    """The slot that begins at a match of SLOT, and where it ends."""
    name, at = found["name"], found.end()

    def wrong(why: str) -> RequestError:
        return RequestError(f"template: slot {name!r}: {why} (near {text[at : at + 30]!r})")

    made = Slot(name)
    if not found["colon"]:
        if name not in slots:
            raise wrong(f"has no constraint; write {{{name}:/regex/}} or give {name}=Slot(...)")
        made = replace(slots[name], name=name)
    elif text.startswith("/", at):
        closing = re.compile(r"/((?:[^/\\]|\\.)*)/", re.DOTALL).match(text, at)
        if closing is None:
            raise wrong("the regular expression has no closing '/'")
        made, at = Slot(name, regex=closing[1].replace("\\/", "/")), closing.end()
    elif text.startswith("[", at):
        closing = re.compile(r"""\[(?:[^\]"']|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')*\]""").match(text, at)
        try:
            made = Slot(name, choices=tuple(ast.literal_eval(closing[0] if closing else "")))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise wrong("expected a list of texts such as ['yes', 'no']") from None
        at = closing.end() if closing else at
    elif text.startswith("text", at):
        at += len("text")
        while (option := OPTION.match(text, at)) is not None:
            try:
                made = replace(made, **{option[1]: ast.literal_eval(option[2])})
            except (TypeError, ValueError, SyntaxError):
                raise wrong(f"{option[1]}={option[2]} is none of stop='...', max_tokens=20") from None
            at = option.end()
    else:
        raise wrong("expected /regex/, ['a', 'b'] or text")
    closing = re.compile(r"\s*\}").match(text, at)
    if closing is None:
        raise wrong("the closing '}' is missing")
    return made, closing.end()
