"""A config.json that is read key by key: a value that cannot be honoured is refused by file and key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models._folder import MOST

LEAST, LARGEST = 1.2e-38, 3.4e38  # what float32 holds in full
TABLES = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
NEUTRAL = frozenset(TABLES["neutral"].split())
MISSING: Any = object()


class Misfit(CheckpointError):
    """A model that a family cannot hold; the message says why."""


class Config:
    """A config.json that is read key by key; `finish` refuses what nobody read and nobody may ignore.

    Args:
        neutral: keys that have no effect on what a model of this family computes.
    """

    def __init__(self, data: Mapping[str, Any], path: object, neutral: frozenset[str] = frozenset()) -> None:
        self.data, self.path = dict(data), path
        self.sizes: dict[str, int] = {}  # the whole numbers that were read
        self._read: set[str] = set(neutral)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, `default` where it is absent or null."""
        self._read.add(key)
        value = self.data.get(key)
        return default if value is None else value

    def number(self, key: str, kind: type[int] | type[float], default: Any = None) -> Any:
        """A number above 0 that 32 bits hold. Raises CheckpointError where it is missing, or no such number."""
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(f"{self.path}: {key} is missing")
        most = MOST if kind is int else LARGEST
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not LEAST <= value <= most:
            raise CheckpointError(f"{self.path}: {key} is {shown(value)}, expected a number above 0, up to {most:,}")
        if kind is int and value != int(value):
            raise CheckpointError(f"{self.path}: {key} is {value!r}, expected a whole number")
        if kind is int:
            self.sizes[key] = int(value)
        return kind(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false, as 0 and 1 too. Raises CheckpointError for anything else."""
        value = self.get(key, default)
        if value not in (True, False):
            raise CheckpointError(f"{self.path}: {key} is {shown(value)}, expected true or false")
        return bool(value)

    def expect(self, key: str, *allowed: Any) -> None:
        """Refuse a key whose value is none of `allowed` (absent is fine)."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise CheckpointError(f"{self.path}: {key} = {shown(value)} is not supported (only {allowed[0]!r})")

    def choose(self, key: str, table: Mapping[str, Any], default: str | None) -> Any:
        """A key's value looked up in `table`. Raises CheckpointError that names what it may be."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in table:
            raise CheckpointError(f"{self.path}: {key} = {shown(value)} is not supported (known: {', '.join(table)})")
        return table[value]

    def finish(self) -> None:
        """Raises CheckpointError for keys that were not read and might change what the model computes."""
        for key, value in self.data.items():
            if key not in self._read and key not in NEUTRAL and value not in (None, False, {}, []):
                raise CheckpointError(
                    f"{self.path}: {key[:60]} = {shown(value)} is not known; it may change what the model computes, "
                    "so the checkpoint is refused"
                )
