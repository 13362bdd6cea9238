"""JSON files of strangers: read strictly, so that what is broken or ambiguous is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import TokenizerError

DEEPEST, MOST_STEPS = 64, 64  # levels of a file, and steps of a part of it


def read_strictly(path: Path) -> Any:
    """A JSON document in which no object has a key twice (readers differ on which of the two counts).

    Raises:
        TokenizerError: no such file, not UTF-8, not JSON, nested too deeply, a number too long, a key given twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise TokenizerError(f"{path}: the key {twice[:60]!r} is given twice in one object; remove one of them")
        return found

    try:
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=unique)
        if _is_deeper(found, DEEPEST):
            raise TokenizerError(f"{path}: is nested more than {DEEPEST} deep, which no tokenizer is")
        return found
    except FileNotFoundError:
        raise TokenizerError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise TokenizerError(f"{path}: is nested too deeply to be a tokenizer") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from None
    except TokenizerError:
        raise
    except ValueError:
        raise TokenizerError(f"{path}: holds a number of more digits than can be read") from None


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than so many levels."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def read_config(path: Path) -> Any:
    """The `tokenizer_config.json`, or an empty object where there is none."""
    return read_strictly(path) if path.is_file() else {}


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
