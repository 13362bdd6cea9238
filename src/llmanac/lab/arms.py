"""The arms of a comparison as the user writes them: `rope,learned,mlp{activation="relu",width=512}`.

An arm is a name, or a name with fields in braces; values are TOML, else text, as everywhere in the patch grammar.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmanac.core.errors import SpecError


@dataclass(frozen=True)
class ArmText:
    """One arm before it is resolved: its label, and a method's name with the fields it sets, or patches."""

    label: str
    name: str
    fields: tuple[tuple[str, Any], ...] = ()
    patches: tuple[tuple[str, Any], ...] | None = None

    @property
    def value(self) -> str | dict[str, Any]:
        """What `patch` takes for the axis' path."""
        return {"name": self.name, **dict(self.fields)} if self.fields else self.name


def split_outside(text: str) -> list[str]:
    """Split at commas outside quotes, braces and brackets.

    Raises:
        SpecError: a brace, bracket or quote that is not closed.
    """
    pieces, current, closers, quote = [], "", [], ""
    pairs = {"{": "}", "[": "]", "(": ")"}
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in pairs:
            closers.append(pairs[letter])
        elif closers and letter == closers[-1]:
            closers.pop()
        elif letter == "," and not closers:
            pieces.append(current)
            current = ""
            continue
        current += letter
    if closers or quote:
        raise SpecError(f"--arms {text!r}: {closers[-1] if closers else quote} is missing")
    return [piece.strip() for piece in [*pieces, current]]


def read_value(text: str) -> Any:
    """A value as TOML, else as text."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def parse_arm(text: str, flag: str = "--arms") -> ArmText:
    """`mlp{activation="relu",width=512}` -> its name and fields; `flag` is what a message names.

    Raises:
        SpecError: no name before the brace, or a field that is not `field=value`.
    """
    text = text.strip()
    name, brace, rest = text.partition("{")
    name = name.strip()
    if not name:
        raise SpecError(
            f"{flag} {text!r}: an arm starts with a method's name, for example rope or bpe{{vocab_size=1024}}"
        )
    if not brace:
        return ArmText(name, name)
    if not rest.endswith("}"):
        raise SpecError(f"{flag} {text!r}: expected }} at the end")
    fields = []
    for item in split_outside(rest[:-1]):
        if not item:
            continue
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"{flag} {text!r}: {item!r} is not field=value")
        fields.append((key.strip(), read_value(value)))
    label = name + "{" + ",".join(f"{k}={v}" for k, v in fields) + "}" if fields else name
    return ArmText(label, name, tuple(fields))


def _from_mapping(label: str, value: Any) -> ArmText:
    if isinstance(value, str):
        return replace(parse_arm(value), label=label)
    if not isinstance(value, Mapping):
        raise SpecError(f"arms.{label}: expected a method's name, a table with `name`, or patches, got {value!r}")
    if not isinstance(value.get("name"), str):
        return ArmText(label, label, patches=tuple(value.items()))
    return ArmText(label, value["name"], tuple((k, v) for k, v in value.items() if k != "name"))


def parse_arms(arms: str | Sequence[Any] | Mapping[str, Any]) -> list[ArmText]:
    """The arms in order. A string is split at its commas; a mapping gives labels of the user's own.

    In a mapping an arm is a method's name, a table with `name` and fields, or patches of the base.

    Raises:
        SpecError: fewer than two arms, an arm named twice, or an arm that cannot be read.
    """
    if isinstance(arms, Mapping):
        found = [_from_mapping(str(label), value) for label, value in arms.items()]
    elif isinstance(arms, str):
        found = [parse_arm(item) for item in split_outside(arms) if item]
    else:
        found = [parse_arm(a) if isinstance(a, str) else parse_arm(str(a)) for a in arms]
    if len(found) < 2:
        raise SpecError(
            f"--arms: a comparison needs at least two arms, got {len(found)}; for example --arms rope,learned"
        )
    _refuse_repeats(found)
    return found


def _refuse_repeats(found: list[ArmText]) -> None:
    seen: set[str] = set()
    for arm in found:
        if arm.label in seen:
            raise SpecError(f"--arms: {arm.label!r} is named twice")
        seen.add(arm.label)
