"""The assistant's forms of questions and word lists, read from the TOML files of this folder."""

from __future__ import annotations

from pathlib import Path

from llmanac.core.files import read_toml

FORMS = read_toml(Path(__file__).with_name("forms.toml"))
_LISTS = read_toml(Path(__file__).with_name("words.toml"))
GROUPS: list[str] = _LISTS["groups"].splitlines()


def words(name: str) -> frozenset[str]:
    """One word list of `words.toml`."""
    return frozenset(_LISTS[name].split())
