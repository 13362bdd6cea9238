"""Shares by size, flattened: p_i = s_i^T / (s_1^T + ... + s_k^T) with s_i the size of domain i.

T = 1 keeps every domain as large as it is, T = 0 makes all equally large; between them small domains are drawn more
often than their size asks for. Multilingual models use 0.3 (XLM-R, mT5) to 0.7 (mBERT). Arivazhagan et al. 2019 write
1/T for what is called T here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmanac.core.ranges import Range, within
from llmanac.data.mixtures import Domain, MixtureSpec, normalised

CARD = {
    "title": "Domains by size to the power T",
    "paper": "Arivazhagan et al. 2019, arXiv:1907.05019; Conneau et al. 2020, arXiv:1911.02116",
    "aliases": {"natural": {"power": 1.0}, "uniform": {"power": 0.0}},
    "test": "tests/references/test_mixing.py::test_shares_are_the_closed_forms",
    "claim": "docs/evidence/mixing/page.md",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MixtureSpec):
    """The exponent.

    Attributes:
        power: T; from 0 (uniform) to 1 (natural). Above 1 large domains grow further.
    """

    power: float = 0.5

    ranges = within(Range(0, 100), "power")

    def shares(self, domains: Mapping[str, Domain]) -> dict[str, float]:
        # divided by the largest first: sizes to the power 100 overflow
        largest = max(self.size(domain) for domain in domains.values())
        shares = {name: (self.size(domain) / largest) ** self.power for name, domain in domains.items()}
        return normalised({name: max(share, 1e-12) for name, share in shares.items()})
