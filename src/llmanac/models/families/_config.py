"""A config.json that is read key by key: a value that cannot be honoured is refused by file and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.folder import LARGEST, LEAST, MOST

TABLES = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
NEUTRAL = frozenset(TABLES["neutral"].split())
PEER = tomllib.loads(Path(__file__).with_name("peer.toml").read_text("utf-8"))
COMPUTING = frozenset(PEER["computing"].split())
NEVER = ("auto_map", "quantization_config", "compression_config", "is_causal")  # say that something else is computed
FULL = "full_attention"
MISSING: Any = object()


class Misfit(CheckpointError):
    """A model that a family cannot hold; the message says why."""


class Config:
    """A config.json that is read key by key; `finish` refuses what nobody read and nobody may ignore.

    Args:
        neutral: keys that have no effect on what a model of this family computes.
        kind: its model_type in transformers, whose own keys are kept in peer.toml; "" for a table within a config.
    """

    def __init__(
        self, data: Mapping[str, Any], path: object, neutral: frozenset[str] = frozenset(), kind: str = ""
    ) -> None:
        self.data, self.path, self.kind = dict(data), path, kind
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

    def finish(self) -> list[str]:
        """The keys that change nothing, though nobody knows them: no language model of transformers reads such a name.

        Raises:
            CheckpointError: a key that was not read and might change what the model computes.
        """
        ignored = []
        for key, value in self.data.items():
            if key not in self._read and key not in NEUTRAL and not self._neutral(key, value):
                if not self.kind or key in (*NEVER, *COMPUTING, *self._own) or self._newer():
                    raise CheckpointError(
                        f"{self.path}: {key[:60]} = {shown(value)} is not known; it may change what the model "
                        "computes, so the checkpoint is refused (`llmanac convert --ignore-config KEY`)"
                    )
                ignored.append(key)
        return ignored

    @property
    def _own(self) -> dict[str, Any]:
        """The keys of the family's class in transformers with their defaults, None for what a file cannot say."""
        own = PEER["families"].get(self.kind, {"keys": {}, "unset": [], "same": {}})
        return {**dict.fromkeys([*own["unset"], *own["same"]]), **own["keys"]}

    def _neutral(self, key: str, value: Any) -> bool:
        """Whether this value of a key that was not read changes nothing."""
        if key in self._own:
            target = PEER["families"][self.kind]["same"].get(key, key)  # of which it is another spelling
            return value in (None, self._own[key] if target == key else self.data.get(target, self._own.get(target)))
        if key == "auto_map":
            return self._names_itself(value)
        if key == "layer_types" and isinstance(value, list):
            return all(kind == FULL for kind in value)
        if key == "is_causal":  # read by what all models of transformers share: without it masks are causal
            return value in (None, True)
        return value in (None, False, {}, [])

    def _names_itself(self, value: Any) -> bool:
        """Whether an `auto_map` names the family's own files and classes: the code that it was first published with."""
        own = self.kind.removesuffix("_text")
        named = rf"(?i)(configuration|modeling|tokenization)_{own}(_fast)?\.{own.replace('_', '')}\w*"
        classes = value.values() if isinstance(value, dict) else [value]
        names = [name for one in classes for name in (one if isinstance(one, list) else [one]) if name is not None]
        return all(isinstance(name, str) and re.fullmatch(named, name) for name in names)

    def _newer(self) -> bool:
        """Whether the file is not known to be of the transformers whose keys are kept, or an older one."""
        found = self.data.get("transformers_version")
        if found is None:  # older ones did not say
            return False
        wrote, kept = ([int(n) for n in re.findall(r"\d+", str(one))[:2]] for one in (found, PEER["version"]))
        return not isinstance(found, str) or len(wrote) < 2 or wrote > kept
