"""A config.json that is read key by key: a value that cannot be honoured is refused by file and key.

Two-way maps between our parameters' names and those of a family's files.

A table has a line for each of their tensors that is named or stored differently: one of our names, or several whose
matrices are one tensor of theirs, one below the other along the outputs (their sizes may differ). `*` is a number;
where ours has one `*` more than theirs, it counts experts, which are stacked along a first axis of theirs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        """True or false, as 0 and 1 too. Raises CheckpointError for anything else.

        A null is false to transformers, so that it is none of these where the default is true.
        """
        value = self.get(key, default)
        value = self.data.get(key, default) if default else value
        if value not in (True, False):
            raise CheckpointError(f"{self.path}: {key} is {shown(value)}, expected true or false")
        return bool(value)

    def expect(self, key: str, *allowed: Any) -> None:
        """Refuse a key whose value is none of `allowed` (absent is fine; a null is false where only true is)."""
        value = self.get(key, allowed[0])
        value = self.data.get(key, allowed[0]) if allowed == (True,) else value
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
        if key == "layer_types" and isinstance(value, list):
            return all(kind == FULL for kind in value)
        if key in self._own:
            target = PEER["families"][self.kind]["same"].get(key, key)  # of which it is another spelling
            return value in (None, self._own[key] if target == key else self.data.get(target, self._own.get(target)))
        if key == "auto_map":
            return self._names_itself(value)
        if key == "is_causal":  # read by what all models of transformers share: without it masks are causal
            return value in (None, True)
        return value in (None, False, {}, [])

    def _names_itself(self, value: Any) -> bool:
        """Whether an `auto_map` names the family's own files and classes: the code that it was first published with."""
        own = self.kind.removesuffix("_text").replace("-", "_")
        letters = "_?".join(own.replace("_", ""))
        named = rf"(?i)(configuration|modeling|tokenization)_{own}(_fast)?\.{letters}\w*"
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


LAYER = "model.layers.*."
# how our names outside of the layers begin
OUTSIDE = ("model.", "lm_head", "encoder.", "token_types", "embed_norm", "embed_proj")
Shape = tuple[int, ...]
Table = dict[str | tuple[str, ...], str]


@dataclass(frozen=True)
class WeightSource:
    """The location of one of our parameters in a family's file.

    Attributes:
        name, shape: of their tensor, all of it.
        transposed: whether they store (inputs, outputs).
        expert: its index along their first axis, None where experts are not stacked.
        rows: first and last + 1 of its outputs, None where the tensor is all ours.
        heads: equal pieces that their outputs consist of; `rows` are those of each.
    """

    name: str
    shape: Shape
    transposed: bool = False
    expert: int | None = None
    rows: tuple[int, int] | None = None
    heads: int = 1

    @property
    def alone(self) -> bool:
        """Whether their tensor is this parameter and no other."""
        return self.expert is None and self.rows is None

    def take(self, theirs: Tensor) -> Tensor:
        """Our tensor out of theirs, a view of it where it is one piece."""
        part = self._part(theirs)
        return part if self.rows is None else part.flatten(0, 1)

    def put(self, theirs: Tensor, ours: Tensor) -> None:
        """The inverse: write our tensor into theirs."""
        part = self._part(theirs)
        part.copy_(ours.reshape(part.shape))

    def _part(self, theirs: Tensor) -> Tensor:
        """A view of ours in theirs; where that has `rows`, a further first axis counts its pieces."""
        ours = theirs if self.expert is None else theirs[self.expert]
        ours = ours.t() if self.transposed else ours
        return ours if self.rows is None else ours.unflatten(0, (self.heads, -1))[:, self.rows[0] : self.rows[1]]


@dataclass(frozen=True)
class Names:
    """How a family names and stores parameters; what no line of `table` matches has our name.

    Attributes:
        layers: their prefix of `model.layers.*.`, before names in `table` that begin as none of OUTSIDE does.
        table: ours (or several of ours, fused in this order) -> theirs; a prefix of a name up to a dot will do.
        transposed: those of `theirs` whose matrices are stored (inputs, outputs).
        interleaved: those whose parts are fused by heads of keys (q, k and v of the first one, then of the second).
        alternating: those of `theirs` in which the outputs of several of ours take turns, in place of following.
    """

    layers: str = LAYER
    table: Mapping[str | tuple[str, ...], str] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    interleaved: frozenset[str] = frozenset()
    alternating: frozenset[str] = frozenset()

    def place(self, shapes: Mapping[str, Shape], spec: Any = None) -> dict[str, WeightSource]:
        """Where each of our parameters is, given all their shapes; `spec` has the heads of interleaved ones."""
        rules = [self._rule(ours, theirs) for ours, theirs in self.table.items()]
        found = {name: _match(name, rules, self.layers) for name in shapes}
        mixer = spec.blocks[0].mixer if self.interleaved else None
        heads = 1 if mixer is None else mixer.kv_heads or mixer.heads  # of queries, those that share a head of keys
        groups: dict[str, dict[int, dict[int, str]]] = {}
        for name, (theirs, expert, part, _, _) in found.items():
            groups.setdefault(theirs, {}).setdefault(expert, {})[part] = name
        turns = {self.layers + theirs for theirs in self.alternating}
        return {
            name: _source(
                theirs,
                groups[theirs],
                expert,
                part,
                transposed,
                heads if interleaved else 1,
                shapes,
                _number(theirs) in turns,
            )
            for name, (theirs, expert, part, transposed, interleaved) in found.items()
        }

    def _rule(self, ours: str | tuple[str, ...], theirs: str) -> _Rule:
        ours = (ours,) if isinstance(ours, str) else ours
        inside = not ours[0].startswith(OUTSIDE)
        patterns = [_pattern(LAYER + name if inside else name) for name in ours]
        prefix = self.layers if inside else ""
        return _Rule(patterns, prefix + theirs, theirs in self.transposed, theirs in self.interleaved)


@dataclass(frozen=True)
class _Rule:
    patterns: list[Any]
    theirs: str
    transposed: bool
    interleaved: bool


def _pattern(ours: str) -> Any:
    return re.compile(re.escape(ours).replace(r"\*", r"(\d+)") + r"((?:\..+)?)")


def _filled(theirs: str, numbers: list[str]) -> str:
    for number in numbers:
        theirs = theirs.replace("*", number, 1)
    return theirs


def _number(theirs: str) -> str:
    """A name of theirs with `*` for the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", theirs, count=1)


def _match(name: str, rules: list[_Rule], layers: str) -> tuple[str, int, int, bool, bool]:
    """(their name, expert or -1, which part, whether it is transposed, whether interleaved)."""
    for rule in rules:
        for part, pattern in enumerate(rule.patterns):
            if match := pattern.fullmatch(name):
                *numbers, rest = match.groups()
                wanted = rule.theirs.count("*")
                expert = int(numbers[-1]) if len(numbers) > wanted else -1
                transposed = rule.transposed and not rest.endswith(".bias")
                theirs = _filled(rule.theirs, numbers[:wanted]) + rest
                return theirs, expert, part, transposed, rule.interleaved
    if layers != LAYER and (match := _pattern(LAYER[:-1]).fullmatch(name)):
        return _filled(layers[:-1], [match[1]]) + match[2], -1, 0, False, False
    return name, -1, 0, False, False


def _source(
    theirs: str,
    group: dict[int, dict[int, str]],
    expert: int,
    part: int,
    transposed: bool,
    heads: int,
    shapes: Mapping[str, Shape],
    alternating: bool,
) -> WeightSource:
    parts = group[expert]
    whole, rows = shapes[parts[part]], None
    if len(parts) > 1:
        sizes = {number: shapes[parts[number]][0] for number in sorted(parts)}
        heads = shapes[parts[part]][0] if alternating else heads  # each piece has a row of every part
        start = sum(size for number, size in sizes.items() if number < part) // heads
        whole, rows = (sum(sizes.values()), *whole[1:]), (start, start + whole[0] // heads)
    whole = whole[::-1] if transposed else whole
    if expert < 0:
        return WeightSource(theirs, whole, transposed, None, rows, heads)
    return WeightSource(theirs, (len(group), *whole), transposed, expert, rows, heads)


def arrange(state: Mapping[str, Tensor], sources: Mapping[str, WeightSource]) -> dict[str, Tensor]:
    """Our parameters as the tensors of a family's file."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        source = sources[name]
        if source.alone:
            theirs[source.name] = tensor.t() if source.transposed else tensor
            continue
        if source.name not in theirs:
            theirs[source.name] = torch.empty(source.shape, dtype=tensor.dtype, device=tensor.device)
        source.put(theirs[source.name], tensor)
    return theirs
