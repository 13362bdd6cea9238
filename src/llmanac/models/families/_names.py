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
class Source:
    """The location of one of our parameters in a family's file.

    Attributes:
        name, shape: of their tensor, all of it.
        transposed: whether they store (inputs, outputs).
        expert: its index along their first axis, None where experts are not stacked.
        rows: first and last + 1 of its outputs, None where the tensor is all ours.
    """

    name: str
    shape: Shape
    transposed: bool = False
    expert: int | None = None
    rows: tuple[int, int] | None = None

    @property
    def alone(self) -> bool:
        """Whether their tensor is this parameter and no other."""
        return self.expert is None and self.rows is None

    def take(self, theirs: Tensor) -> Tensor:
        """Our tensor out of theirs, a view of it."""
        ours = theirs if self.expert is None else theirs[self.expert]
        ours = ours.t() if self.transposed else ours
        return ours if self.rows is None else ours[self.rows[0] : self.rows[1]]


@dataclass(frozen=True)
class Names:
    """How a family names and stores parameters; what no line of `table` matches has our name.

    Attributes:
        layers: their prefix of `model.layers.*.`, before names in `table` that begin as none of OUTSIDE does.
        table: ours (or several of ours, fused in this order) -> theirs; a prefix of a name up to a dot will do.
        transposed: those of `theirs` whose matrices are stored (inputs, outputs).
    """

    layers: str = LAYER
    table: Mapping[str | tuple[str, ...], str] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()

    def place(self, shapes: Mapping[str, Shape]) -> dict[str, Source]:
        """Where each of our parameters is, given the shapes of all of them."""
        rules = [self._rule(ours, theirs) for ours, theirs in self.table.items()]
        found = {name: _match(name, rules, self.layers) for name in shapes}
        groups: dict[str, dict[int, dict[int, str]]] = {}
        for name, (theirs, expert, part, _) in found.items():
            groups.setdefault(theirs, {}).setdefault(expert, {})[part] = name
        return {
            name: _source(theirs, groups[theirs], expert, part, transposed, shapes)
            for name, (theirs, expert, part, transposed) in found.items()
        }

    def _rule(self, ours: str | tuple[str, ...], theirs: str) -> _Rule:
        ours = (ours,) if isinstance(ours, str) else ours
        inside = not ours[0].startswith(OUTSIDE)
        patterns = [_pattern(LAYER + name if inside else name) for name in ours]
        return _Rule(patterns, (self.layers if inside else "") + theirs, theirs in self.transposed)


@dataclass(frozen=True)
class _Rule:
    patterns: list[Any]
    theirs: str
    transposed: bool


def _pattern(ours: str) -> Any:
    return re.compile(re.escape(ours).replace(r"\*", r"(\d+)") + r"((?:\..+)?)")


def _filled(theirs: str, numbers: list[str]) -> str:
    for number in numbers:
        theirs = theirs.replace("*", number, 1)
    return theirs


def _match(name: str, rules: list[_Rule], layers: str) -> tuple[str, int, int, bool]:
    """(their name, expert or -1, which part, whether it is transposed)."""
    for rule in rules:
        for part, pattern in enumerate(rule.patterns):
            if match := pattern.fullmatch(name):
                *numbers, rest = match.groups()
                wanted = rule.theirs.count("*")
                expert = int(numbers[-1]) if len(numbers) > wanted else -1
                transposed = rule.transposed and not rest.endswith(".bias")
                return _filled(rule.theirs, numbers[:wanted]) + rest, expert, part, transposed
    if layers != LAYER and (match := _pattern(LAYER[:-1]).fullmatch(name)):
        return _filled(layers[:-1], [match[1]]) + match[2], -1, 0, False
    return name, -1, 0, False


def _source(
    theirs: str, group: dict[int, dict[int, str]], expert: int, part: int, transposed: bool, shapes: Mapping[str, Shape]
) -> Source:
    parts = group[expert]
    whole, rows = shapes[parts[part]], None
    if len(parts) > 1:
        sizes = {number: shapes[parts[number]][0] for number in sorted(parts)}
        start = sum(size for number, size in sizes.items() if number < part)
        whole, rows = (sum(sizes.values()), *whole[1:]), (start, start + whole[0])
    whole = whole[::-1] if transposed else whole
    if expert < 0:
        return Source(theirs, whole, transposed, None, rows)
    return Source(theirs, (len(group), *whole), transposed, expert, rows)


def arrange(state: Mapping[str, Tensor], sources: Mapping[str, Source]) -> dict[str, Tensor]:
    """Our parameters as the tensors of a family's file."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        source = sources[name]
        if source.alone:
            theirs[source.name] = tensor.t() if source.transposed else tensor
            continue
        if source.name not in theirs:
            theirs[source.name] = torch.empty(source.shape, dtype=tensor.dtype, device=tensor.device)
        source.take(theirs[source.name]).copy_(tensor)
    return theirs
