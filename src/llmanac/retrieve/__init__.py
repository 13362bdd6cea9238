"""Finding passages: given texts and a query, which texts speak of it."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from llmanac.core.spec import Spec
from llmanac.retrieve._words import code_words as code_words
from llmanac.retrieve._words import content as content


class Hit(NamedTuple):
    """One result: the position of the text in the index, and how well it matches (higher is better)."""

    position: int
    score: float


@dataclass(frozen=True, kw_only=True)
class RetrieverSpec(Spec):
    """Base of every retriever's Spec; `build(texts=...)` indexes the texts.

    What it builds has `top(query, k) -> list[Hit]`, the best texts that match at all, best first, of equal ones the
    first; `len()`; `save(folder)`.
    """

    kind: ClassVar[str] = "retriever"
