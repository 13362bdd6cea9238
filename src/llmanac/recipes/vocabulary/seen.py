"""Whether a tokenizer was trained on the text it is measured on; its figures then say less about other text."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import read_json
from llmanac.core.spec import make_method
from llmanac.tokenizers._base import Tokenizer

TRAINING = "training.json"  # next to a tokenizer: what it was trained on


def places(paths: Iterable[str]) -> list[str]:
    """Where text is read from, as real paths; for a pattern, the folder above its first wildcard."""
    found = []
    for path in paths:
        parts = Path(path).expanduser().parts
        plain = parts if os.path.exists(path) else itertools.takewhile(lambda part: not glob.has_magic(part), parts)
        found.append(os.path.realpath(os.path.join(*plain, "") if parts else "."))
    return found


def overlap(learned: Sequence[str], measured: Sequence[str]) -> str:
    """The first place that both read, or that is inside one of the others; empty where there is none."""
    for one in learned:
        for other in measured:
            if one == other or one.startswith(os.path.join(other, "")) or other.startswith(os.path.join(one, "")):
                return max(one, other, key=len)
    return ""


def note(label: str, item: str, tokenizer: Tokenizer, measured: Sequence[str]) -> str:
    """A warning if a finished tokenizer may have been trained on the measured text; else empty.

    Args:
        item: its folder or file.
        measured: real paths of what is measured on.
    """
    path = Path(item)
    about = _training(path if path.is_dir() else path.parent, tokenizer)
    learned = about.get("places")
    if about and not _learns(about):
        return ""
    if not isinstance(learned, list):
        return f"{label} is a finished tokenizer with unknown training text: it may have seen this text."
    if where := overlap([str(one) for one in learned], measured):
        return f"{label} learned from {where}, which it is measured on: other text takes more tokens."
    return ""


def _training(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """What training.json says, if it is of this tokenizer."""
    try:
        about = read_json(folder / TRAINING)
    except DataError:
        return {}
    same = isinstance(about, dict) and about.get("fingerprint") == tokenizer.fingerprint()
    return about if same else {}


def _learns(about: dict[str, Any]) -> bool:
    try:
        return bool(type(make_method("tokenizer", about["tokenizer"]["name"], TRAINING)).learns)
    except (SpecError, KeyError, TypeError):  # of another version
        return True
