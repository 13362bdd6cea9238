"""Families: checkpoints of other projects, their config.json as our Spec and their parameter names as ours.

A family is one module with `MODEL_TYPE`, `FIELDS` (their names of what AXES and PRESENT name, of the layers, and of
fields of our Specs), `IGNORED` (endings of names in their files that are no parameters), `to_spec(config)`,
`to_config(spec, vocab_size)` (raises Misfit) and `source(name)`; `FAMILIES` lists them. A Spec is the
authority on what a model is: what a config says and no Spec field can hold is refused by name, never dropped.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llmanac.core.errors import CheckpointError, nearest, shown
from llmanac.models._folder import MOST
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.heads.linear import Spec as LinearHead
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.scores.scaled_dot import Spec as ScaledDot

FAMILIES = ("llama", "gpt2")
LEAST, LARGEST = 1.2e-38, 3.4e38  # what float32 holds in full

TABLES = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
NEUTRAL = frozenset(TABLES["neutral"].split())
AXES, PRESENT, OWN_FIELDS = TABLES["axes"], TABLES["present"], TABLES["own_fields"]


@dataclass(frozen=True)
class Source:
    """The location of one of our parameters in a family's file.

    `name` is theirs; `part` of `parts` equal slices along their output axis (GPT-2 keeps q, k and v in one matrix);
    `transposed` where they store (inputs, outputs).
    """

    name: str
    transposed: bool = False
    part: int = 0
    parts: int = 1

    def take(self, theirs: Tensor) -> Tensor:
        """Our tensor out of theirs."""
        ours = theirs.t() if self.transposed else theirs
        return ours.chunk(self.parts)[self.part] if self.parts > 1 else ours

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs that gives a tensor of ours its own."""
        whole = (ours[0] * self.parts, *ours[1:]) if self.parts > 1 else ours
        return whole[::-1] if self.transposed else whole


class Misfit(CheckpointError):
    """A model that a family cannot hold; the message says why."""


def family(name: str, where: str = "model_type") -> Any:
    """The module of a family. Raises CheckpointError for one that is not known."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(
            f"{where}: {shown(name)} is not a family that can be read{nearest(name, FAMILIES)} ({known})"
        )
    return importlib.import_module(f"{__name__}.{name}")


class Config:
    """A config.json that is read key by key; `finish` refuses what nobody read and nobody may ignore."""

    def __init__(self, data: Mapping[str, Any], path: object) -> None:
        self.data, self.path = dict(data), path
        self.sizes: dict[str, int] = {}  # the whole numbers that were read
        self._read: set[str] = set()

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

    def choose(self, key: str, table: Mapping[str, str], default: str) -> str:
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


def need(condition: bool, reason: str) -> None:
    """Raises Misfit with the reason where the condition does not hold."""
    if not condition:
        raise Misfit(reason)


def parts_of(spec: Any, family: str, **wanted: type) -> tuple[Any, Any]:
    """The mixer and feed-forward Specs of a pre-norm model with a linear head. Raises Misfit for any other.

    Args:
        spec: resolved; family: its name in messages; wanted: the Specs' classes of `position`, `norm` and `ffn`.
    """
    block = only(spec.blocks, "their blocks")
    mixer, ffn = getattr(block, "mixer", None), getattr(block, "ffn", None)
    kinds = {
        "blocks are": (block, PreNorm),
        "the head is": (spec.head, LinearHead),
        "positions are": (spec.position, wanted["position"]),
        "norms are": (spec.norm, wanted["norm"]),
        "the mixer is": (mixer, Softmax),
        "the feed-forward layer is": (ffn, wanted["ffn"]),
        "the score is": (getattr(mixer, "score", None), ScaledDot),
    }
    for what, (part, kind) in kinds.items():
        name = kind.__module__.rpartition(".")[2].replace("_", "-")
        need(
            isinstance(part, kind),
            f"{what} {getattr(part, 'name', None)}, {family}'s {what.rpartition(' ')[2]} {name}",
        )
    assert isinstance(mixer, Softmax)
    need(mixer.qk_norm is None, f"queries and keys are normed, {family}'s are not")
    need(mixer.window is None, f"attention has a window, {family}'s has none")
    return mixer, ffn


def only(values: Iterable[Any], what: str) -> Any:
    """The one value that all layers share. Raises Misfit where they differ."""
    found = list(dict.fromkeys(values))
    need(len(found) == 1, f"layers differ in {what}")
    return found[0]
