"""Stated proportions: domain i is the fraction w_i / (w_1 + ... + w_k), its weight as the recipe states it.

GPT-3 and Llama did this: proportions chosen by hand, not by how much text there is (Brown et al. 2020, table 2.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmanac.data.mixtures import Domain, MixtureSpec, normalised

CARD = {
    "title": "Domains in stated proportions",
    "paper": "Brown et al. 2020, arXiv:2005.14165, table 2.2",
    "aliases": {},
    "test": "tests/references/test_mixing.py::test_shares_are_the_closed_forms",
    "claim": "docs/evidence/mixing/page.md",
}


@dataclass(frozen=True, kw_only=True)
class Spec(MixtureSpec):
    """The weights are with the inputs (`weight = 2`)."""

    def shares(self, domains: Mapping[str, Domain]) -> dict[str, float]:
        return normalised({name: domain.weight for name, domain in domains.items()})
