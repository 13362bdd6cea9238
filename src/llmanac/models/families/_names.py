"""Two-way maps between our parameters' names and those of a family's files.

A table has a line for each of their tensors that is named or stored differently: one of our names, or several whose
matrices are one tensor of theirs, one below the other along the outputs (their sizes may differ). `*` is a number;
where ours has one `*` more than theirs, it counts experts, which are stacked along a first axis of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LAYER = "model.layers.*."
OUTSIDE = ("model.", "lm_head", "encoder.", "token_types", "embed_norm")  # how our names outside of the layers begin
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
        interleaved: those whose parts are fused head by head (q, k and v of the first head, then of the second).
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
        heads = spec.blocks[0].mixer.heads if self.interleaved else 1
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
