"""UniMax: as even as can be, but no domain is repeated more than N times (Chung et al. 2023, algorithm 1).

Domains are taken from the smallest: each gets an even part of what is left of the budget, or N times its size where
that is less; what a small domain cannot use is left for the larger ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmanac.core.ranges import COUNT, within
from llmanac.data.mixtures import Domain, MixtureSpec, normalised

CARD = {
    "title": "UniMax: even, with a cap on repetition",
    "paper": "Chung et al. 2023, arXiv:2304.09151",
    "aliases": {},
    "test": "tests/references/test_mixing.py::test_shares_are_the_closed_forms",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MixtureSpec):
    """The cap and the budget.

    Attributes:
        epochs: N, the most times that a domain is repeated.
        budget: how much is to be drawn, in `unit`; the size of everything where it is not given.
    """

    epochs: float = 4.0
    budget: int | None = None

    ranges = within(COUNT, "budget")

    def shares(self, domains: Mapping[str, Domain]) -> dict[str, float]:
        sizes = {name: self.size(domain) for name, domain in domains.items()}
        left = float(self.budget if self.budget is not None else sum(sizes.values()))
        drawn: dict[str, float] = {}
        for place, name in enumerate(sorted(sizes, key=lambda n: (sizes[n], n))):
            drawn[name] = min(left / (len(sizes) - place), self.epochs * sizes[name])
            left -= drawn[name]
        return normalised(drawn)
