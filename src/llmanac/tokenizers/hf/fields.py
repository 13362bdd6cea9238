"""JSON files of strangers: read strictly, so that what is broken or ambiguous is refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import TokenizerError

MOST_STEPS = 64  # of one part of a tokenizer, such as its normalizer
MOST = 1 << 28  # bytes of a tokenizer's file; the largest known ones have 40 million


def read_strictly(path: Path) -> Any:
    """A JSON document in which no object has a key twice. Raises TokenizerError as `files.read_json` does."""
    return files.read_json(path, most=MOST, error=TokenizerError)


def read_config(path: Path) -> Any:
    """The `tokenizer_config.json`, or an empty object where there is none."""
    return files.read_json(path, most=files.MOST_SETTINGS, error=TokenizerError) if path.exists() else {}


def table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TokenizerError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return dict(value)


def flags_of(token: Mapping[str, Any], flags: Sequence[str], where: str) -> dict[str, bool]:
    """The flags of an added token, off where they are left out. Raises TokenizerError for one that is no true or false.

    The text "false" would else count as true, and what a user may not write as text become what he may.
    """
    found = {flag: token.get(flag, False) for flag in flags}
    for flag, value in found.items():
        if not isinstance(value, bool):
            raise TokenizerError(f"{where}.{flag}: expected true or false, got {repr(value)[:40]}")
    return found


def switch_of(model: Mapping[str, Any], name: str, where: str) -> bool:
    """A switch of the model, off where it is null or left out. Raises TokenizerError for what is no true or false."""
    value = model.get(name)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(f"{where}.{name}: expected true or false, got {repr(value)[:40]}")
    return bool(value)


def id_of(value: Any) -> int | None:
    """An id below 2^30, as a number or in digits; None for what is none."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= 10:
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 30 else None


def items_of(value: Any, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise TokenizerError(f"{where}: expected a JSON list, got {type(value).__name__}")
    return value or []


def steps_of(value: Any, where: str, inner: str) -> list[dict[str, Any]]:
    """The steps of a part of the pipeline: those of a Sequence, or the one that it is."""
    node = table(value, where)
    items = items_of(node.get(inner), f"{where}.{inner}") if node.get("type") == "Sequence" else [node]
    if len(items) > MOST_STEPS:
        raise TokenizerError(f"{where}.{inner}: has {len(items)} steps; more than {MOST_STEPS} are not supported")
    return [table(item, f"{where}[{i}]") for i, item in enumerate(items)]
