"""How large a part of the text each domain is: from stated weights, from sizes, or learned from a proxy's loss.

A mixture gives proportions; `data/schedule.py` draws by them, exactly and resumably.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, POSITIVE, within
from llmanac.core.spec import Spec


@dataclass(frozen=True)
class Domain:
    """What a mixture knows of a domain: how much of it there is, and its stated weight."""

    documents: int
    bytes: int
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MixtureSpec(Spec):
    """Base of every mixture's Spec.

    Attributes:
        unit: what the proportions are of. Documents are drawn either way; for bytes, the bytes drawn are counted.
        epochs: how many times a domain's documents may be drawn; the mixture ends where the next draw would go over.
        documents: how many documents to draw at most; as many as `epochs` allows where it is not given.
        seed: another seed draws the documents of each domain in another order.
    """

    kind: ClassVar[str] = "mixture"

    unit: Literal["documents", "bytes"] = "documents"
    epochs: float = 1.0
    documents: int | None = None
    seed: int = 0

    ranges = within(POSITIVE, "epochs") | within(COUNT, "documents")

    def shares(self, domains: Mapping[str, Domain]) -> dict[str, float]:
        """Each domain's fraction of `unit`: positive, summing to 1.

        Raises:
            SpecError: the mixture does not fit these domains.
        """
        raise NotImplementedError

    def size(self, domain: Domain) -> int:
        """A domain's size in `unit`."""
        return domain.documents if self.unit == "documents" else domain.bytes

    def targets(self, domains: Mapping[str, Domain]) -> dict[str, float]:
        """Each domain's fraction of what is drawn, in `unit`. A domain without documents is left out.

        Raises:
            SpecError: no domain has documents.
        """
        filled = {name: domain for name, domain in domains.items() if domain.documents}
        if not filled:
            raise SpecError("mixture: no domain has a document left to draw")
        return normalised(self.shares(filled))

    def build(self, **dims: Any) -> MixtureSpec:
        """A mixture has no dimensions: the Spec is the mixture."""
        return super().build(**dims) if dims else self


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Positive weights, divided by their sum."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
