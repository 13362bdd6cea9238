"""Several states of one layer: a block with self-attention and cross-attention remembers both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from llmanac.models.state import LayerState


class CompositeState(LayerState):
    """`parts` by name; each does what the whole is asked to do."""

    kind: ClassVar[str] = "composite"

    def __init__(self, **parts: LayerState) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def reserve(self, tokens: int) -> None:
        for part in self.parts.values():
            part.reserve(tokens)

    def mark(self, counts: Sequence[int]) -> dict[str, Any]:
        return {name: part.mark(counts) for name, part in self.parts.items()}

    def check_rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        for name, part in self.parts.items():
            part.check_rewind(None if mark is None else mark[name], lengths, counts)

    def rewind(self, mark: Any, lengths: Sequence[int], counts: Sequence[int]) -> None:
        for name, part in self.parts.items():
            part.rewind(None if mark is None else mark[name], lengths, counts)

    def extend(self, rows: int) -> None:
        for part in self.parts.values():
            part.extend(rows)

    def arrange(self, order: Sequence[int]) -> None:
        for part in self.parts.values():
            part.arrange(order)

    def view(self, start: int, stop: int) -> CompositeState:
        return CompositeState(**{name: part.view(start, stop) for name, part in self.parts.items()})

    def select(self, rows: Tensor) -> CompositeState:
        return CompositeState(**{name: part.select(rows) for name, part in self.parts.items()})

    def join(self, other: CompositeState) -> CompositeState:
        return CompositeState(**{name: part.join(other.parts[name]) for name, part in self.parts.items()})
