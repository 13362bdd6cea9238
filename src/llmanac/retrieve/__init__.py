"""Finding passages: given texts and a query, which texts speak of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from llmanac.core.spec import Spec


class Hit(NamedTuple):
    """One result: the position of the text in the index, and how well it matches (higher is better)."""

    position: int
    score: float


class Retriever(Protocol):
    """What every built retriever offers."""

    def __len__(self) -> int: ...
    def top(self, query: str, k: int = 5) -> list[Hit]:
        """The `k` best texts that match at all, best first; ties go to the text that stands first."""

    def save(self, folder: str | Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RetrieverSpec(Spec):
    """Base of every retriever's Spec; `build(texts=...)` indexes the texts."""

    kind: ClassVar[str] = "retriever"

    def build(self, *, texts: Sequence[str] = (), **dims: Any) -> Retriever:
        return super().build(texts=texts, **dims)
