"""DoReMi: weights learned from a small proxy's loss (Xie et al. 2023).

A small reference model is trained on the domains as they are; a proxy of the same size is then trained with weights
alpha on its domains' losses, which move towards the domains where it has the most left to learn:

    lambda_i = (1 / tokens of D_i in the batch) sum over them of max(loss_proxy - loss_reference, 0)
    alpha'_i = alpha_i exp(eta lambda_i)         alpha_i <- (1 - c) alpha'_i / sum_j alpha'_j + c / k

The mixture is the mean of alpha over all steps. `llmanac data weights FOLDER` trains the two models
(`recipes/mixing.py`) and writes the file that this mixture reads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError
from llmanac.data.mixtures import Domain, MixtureSpec, normalised

CARD = {
    "title": "DoReMi: weights from a proxy's excess loss",
    "paper": "Xie et al. 2023, arXiv:2305.10429, algorithm 1",
    "aliases": {},
    "test": "tests/references/test_doremi.py::test_the_update_is_the_papers",
    "claim": "docs/evidence/mixing/page.md",
}


def reweighted(weights: np.ndarray, excess: np.ndarray, *, rate: float = 1.0, smoothing: float = 1e-3) -> np.ndarray:
    """One step of the weights: `weights` (k,) positive summing to 1, `excess` (k,) mean clipped excess losses."""
    logits = np.log(weights) + rate * excess
    moved = np.exp(logits - logits.max())
    return (1 - smoothing) * moved / moved.sum() + smoothing / len(weights)


@dataclass(frozen=True, kw_only=True)
class Spec(MixtureSpec):
    """Where the weights are.

    Attributes:
        file: what `llmanac data weights` wrote.
        unit: the weights are learned on rows of equal length, so that they are fractions of text, not of documents.
    """

    file: str = ""
    unit: Literal["documents", "bytes"] = "bytes"

    def shares(self, domains: Mapping[str, Domain]) -> dict[str, float]:
        if not self.file:
            raise SpecError("mixture.file: not given; make the weights with `llmanac data weights FOLDER`")
        found = files.read_json(Path(self.file))
        weights = found.get("weights") if isinstance(found, dict) else None
        if not isinstance(weights, dict):
            raise DataError(f"{self.file}: has no weights; make it with `llmanac data weights FOLDER`")
        learned = found.get("unit", self.unit)  # a file written by hand may leave it out
        if learned != self.unit:
            raise SpecError(
                f"mixture.unit: is {self.unit!r}, and the weights in {self.file} are shares of {learned}; set "
                f'unit = "{learned}"'
            )
        missing = sorted(domains.keys() - weights.keys())
        if missing:
            raise DataError(f"{self.file}: has no weight for the domain {missing[0]!r} (it has {sorted(weights)})")
        chosen = {name: weights[name] for name in domains}
        if any(type(w) not in (int, float) or not 0 < w < math.inf for w in chosen.values()):
            raise DataError(f"{self.file}: its weights are not all positive numbers")
        return normalised(chosen)
