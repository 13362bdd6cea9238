"""Command R7B and A: Cohere's form with a window in three of four layers; the fourth sees all, without positions.

Cohere 2025, arXiv:2504.00698.
"""

from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ConfigEntry, Data, Family, at
from llmanac.models.families._windows import alternating
from llmanac.models.families.cohere import SHARED, SPEC
from llmanac.models.families.smollm3 import NONE


class Unrotated(ConfigEntry):
    """Layers without a window have no positions."""

    def read(self, config: Config, data: Data) -> None:
        for block in data["blocks"]:
            if at(block, "mixer.window") is None:
                block["position"] = NONE


FAMILY = Family(
    architecture="Cohere2ForCausalLM",
    spec=SPEC,
    entries=(*SHARED, Rope(), alternating(4, 4096), Unrotated()),
    neutral=frozenset({"cache_implementation", "order_of_interleaved_layers", "rotary_pct", "position_embedding_type"}),
)
