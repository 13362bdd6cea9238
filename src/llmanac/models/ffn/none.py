"""No feed-forward layer: a block that is its mixer alone, as Mamba's are.

A block that is given this one leaves out the norm before it too. Gu & Dao 2023, figure 3.
"""

from dataclasses import dataclass
from typing import Any

from llmanac.models.ffn import FFNSpec

CARD = {
    "title": "No feed-forward layer",
    "paper": "Gu & Dao 2023, arXiv:2312.00752",
    "reference": "MambaBlock in transformers",
    "test": "tests/contracts/test_models.py::test_a_model_is_a_language_model",
}


@dataclass(frozen=True, kw_only=True)
class Spec(FFNSpec):
    """Nothing to choose."""

    def build(self, **dims: Any) -> None:
        return None
